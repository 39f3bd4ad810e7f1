"""How the demo lets its agents in, and what it makes of what its commands say."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
from rich.console import Console

from common.identity_folder import prepare_signing_key
from common.ids import SiteName, digest_of
from common.signing import load_signing_key
from common.signing_certificates import read_certified_key, read_root
from common.tls import CERTIFICATE_FILE, Caller, Role
from coordinator.adapters.pki.ca import CA_CERTIFICATE_FILE, create_ca
from demo import enrolment
from demo.prepare import IDENTITY, Prepared
from demo.processes import ProcessGroup
from demo.release import release_best
from tests.fakes.coordinator_values import make_terms

ANNA = Caller(name=SiteName("anna"), role=Role.SITE, consortium="demo")
TOO_MANY = "TOO_MANY_ATTEMPTS: enrolment: expected the next attempt in 6.0 s"


@dataclass(slots=True)
class FakeGroup:
    """Commands that end at once; what each says, and its exit code, by its name: for each time that it is started."""

    folder: Path
    ends: dict[str, list[tuple[int, str]]]
    started: list[str] = field(default_factory=list)

    def start(self, name: str, _module: str, *_arguments: str) -> None:
        """Start one."""
        self.started.append(name)
        self.log_of(name).write_text(self.ends[name][0][1])

    def finish(self, names: Sequence[str]) -> dict[str, int]:
        """Their exit codes."""
        return {name: self.ends[name].pop(0)[0] for name in names}

    def log_of(self, name: str) -> Path:
        """Where it says what it says."""
        return self.folder / name

    @property
    def group(self) -> ProcessGroup:
        """It, in the place of real processes."""
        return cast(ProcessGroup, self)


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return Prepared(
        root=tmp_path / "ca",
        coordinator_config=tmp_path / "coordinator.toml",
        agent_configs={name: tmp_path / name / "site.toml" for name in ("anna", "berta", "evaluator")},
        operator_identity=tmp_path / "operator",
        state=tmp_path / "state",
        terms=make_terms(),
        corpora=(),
    )


def enrol(prepared: Prepared, fake: FakeGroup) -> None:
    homes = {name: config.parent for name, config in prepared.agent_configs.items()}
    enrolment._enrol(prepared.agent_configs, homes, fake.group)


def test_an_agent_that_came_too_often_tries_again_after_a_while(
    tmp_path: Path, prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    ends = {f"enrol-{name}": [(0, "a member")] for name in prepared.agent_configs}
    ends["enrol-evaluator"] = [(1, TOO_MANY), (1, TOO_MANY), (0, "a member")]
    fake = FakeGroup(tmp_path, ends)

    enrol(prepared, fake)

    assert fake.started[-2:] == ["enrol-evaluator"] * 2 and len(fake.started) == len(ends) + 2
    assert slept == [enrolment.PACE_SECONDS] * 2


def test_an_agent_that_may_not_enrol_ends_the_demo_with_where_it_says_why(tmp_path: Path, prepared: Prepared) -> None:
    ends = {f"enrol-{name}": [(0, "a member")] for name in prepared.agent_configs}
    ends["enrol-evaluator"] = [(1, "TOKEN_SPENT: token: somebody else used it")]

    with pytest.raises(RuntimeError, match=f"evaluator could not enrol: {tmp_path / 'enrol-evaluator'}"):
        enrol(prepared, FakeGroup(tmp_path, ends))


def test_agents_that_have_an_identity_are_not_asked_to_enrol(tmp_path: Path, prepared: Prepared) -> None:
    for config in prepared.agent_configs.values():
        (config.parent / IDENTITY).mkdir(parents=True)
        (config.parent / IDENTITY / CERTIFICATE_FILE).touch()
    console = Console(file=io.StringIO())

    enrolment.enrol_agents(prepared, "localhost:1", FakeGroup(tmp_path, {}).group, console)

    assert console.file.getvalue() == ""  # type: ignore[attr-defined]


def test_the_root_certifies_the_key_that_the_site_reads_out_if_the_coordinator_has_the_same(tmp_path: Path) -> None:
    create_ca(tmp_path / "ca", "demo")
    known = digest_of(prepare_signing_key(tmp_path / "anna"))

    enrolment._certify(tmp_path / "ca", ANNA, tmp_path / "anna", known)

    key = load_signing_key(tmp_path / "anna")
    assert key is not None
    certified = read_certified_key(key.certificate_pem, read_root((tmp_path / "ca" / CA_CERTIFICATE_FILE).read_bytes()))
    assert (certified.caller, certified.public_key) == (ANNA, key.public_key)


@pytest.mark.parametrize("known", ["", digest_of(b"another key")])
def test_a_key_that_the_coordinator_does_not_have_of_the_site_is_not_certified(tmp_path: Path, known: str) -> None:
    create_ca(tmp_path / "ca", "demo")
    prepare_signing_key(tmp_path / "anna")

    with pytest.raises(RuntimeError, match="anna: expected the coordinator to have its signing key, sha256:"):
        enrolment._certify(tmp_path / "ca", ANNA, tmp_path / "anna", known)

    assert not (tmp_path / "anna" / "signing_certificate.pem").exists()


def test_a_release_that_does_not_verify_ends_the_demo_with_what_was_said_of_it(
    tmp_path: Path, prepared: Prepared
) -> None:
    fake = FakeGroup(tmp_path, {"release": [(0, "made")], "verify": [(3, "unconfirmed\nupdate_unsigned")]})

    with pytest.raises(RuntimeError, match="verify ended with exit code 3: unconfirmed\nupdate_unsigned"):
        release_best(prepared, "localhost:1", tmp_path / "release", fake.group)

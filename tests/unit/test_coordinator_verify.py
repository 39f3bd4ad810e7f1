"""A third party checks a release: yes for an honest one, and every kind of tampering is found and named."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import Reason
from common.ids import AssignmentId, SiteName, digest_of
from common.peft_folder import LINEAGE_FILE, WEIGHTS_FILE
from common.strategy_terms import FedMedLoraPlusTerms
from common.terms import AggregationTerms, GateMetric, GateTerms, OnRejection
from coordinator.app.release_manifest import lineage_of
from coordinator.domain.cohort import train_assignment_id
from coordinator.domain.values import Hold
from coordinator.domain.verify import Problem
from tests.fakes import releases
from tests.fakes.coordinator_values import ANNA, BERTA, START
from tests.fakes.coordinator_world import coordinator
from tests.fakes.releases import (
    POLICIES,
    checked,
    forge,
    manifest_of,
    named,
    play,
    release_terms,
    released,
    relisted,
    write_release,
)
from tests.fakes.signing import Signers


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory) -> Signers:
    return Signers(tmp_path_factory.mktemp("signers"))


@pytest.fixture(scope="module")
def _honest(tmp_path_factory: pytest.TempPathFactory, signers: Signers) -> Path:
    return asyncio.run(released(tmp_path_factory.mktemp("honest"), signers, release_terms()))


@pytest.fixture
def honest(_honest: Path, tmp_path: Path) -> Path:
    """A release of two rounds with all updates, of a federation of three sites that signed them."""
    return Path(shutil.copytree(_honest, tmp_path / "release"))


def test_an_honest_release_is_what_it_says(honest: Path, signers: Signers) -> None:
    found = checked(honest, signers)
    assert found.findings == ()
    assert (found.signed_updates, found.recomputed) == (6, (1, 2))


def test_the_manifest_says_under_which_policy_each_site_gave_each_update(honest: Path) -> None:
    said = [
        {entry.site: entry.update.given_under for entry in past.accepted if entry.update is not None}
        for past in manifest_of(honest).run.rounds
    ]
    assert said == [POLICIES, POLICIES]


def test_a_release_of_an_earlier_version_which_says_nothing_of_policies_is_read(
    tmp_path: Path, signers: Signers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(releases, "POLICIES", dict.fromkeys(POLICIES))
    folder = asyncio.run(released(tmp_path, signers, release_terms(count=1)))

    def as_before(document: dict[str, Any]) -> None:
        document["format"] = 1
        for site in range(len(POLICIES)):
            del entry(document, site)["update"]["given_under"]

    forge(folder, signers, as_before)
    assert checked(folder, signers).findings == ()


# What a hostile coordinator says, with its own release key


def entry(document: dict[str, Any], site: int = 0, round_number: int = 1) -> dict[str, Any]:
    found: dict[str, Any] = document["run"]["rounds"][round_number - 1]["roster"][site]
    return found


def straggler(document: dict[str, Any], name: str) -> dict[str, Any]:
    """An entry of the first round that is as it should be, but for the name."""
    assignment = train_assignment_id(document["run"]["run_id"], 1, SiteName(name))
    left = {"outcome": "straggler", "update": None, "weight": 0.0, "scores": None, "assignment_id": assignment}
    return {**entry(document), **left, "site": name}


def set_terms(document: dict[str, Any], **changes: object) -> None:
    document["run"]["terms"]["training"].update(changes)


LIES: dict[str, tuple[Callable[[dict[str, Any]], object], Problem]] = {
    "other counts": (
        lambda d: entry(d)["update"].update(num_examples=11),
        Problem.UPDATE_SIGNATURE_INVALID,
    ),
    "another policy": (
        lambda d: entry(d)["update"]["given_under"].update(digest="sha256:" + "0" * 64),
        Problem.UPDATE_SIGNATURE_INVALID,
    ),
    "a policy that was shown and is said to be withheld": (
        lambda d: entry(d)["update"].update(given_under={"stand": "withheld", "digest": None}),
        Problem.UPDATE_SIGNATURE_INVALID,
    ),
    "a policy left out": (lambda d: entry(d)["update"].update(given_under=None), Problem.UPDATE_SIGNATURE_INVALID),
    "a policy shown without a digest": (
        lambda d: entry(d)["update"]["given_under"].update(digest=""),
        Problem.ROSTER_IMPOSSIBLE,
    ),
    "another update": (
        lambda d: entry(d)["update"]["file"].update(digest=entry(d, 1)["update"]["file"]["digest"]),
        Problem.UPDATE_SIGNATURE_INVALID,
    ),
    "an update of another round": (
        lambda d: entry(d, 0, 2).update(update=entry(d, 0, 1)["update"]),
        Problem.UPDATE_SIGNATURE_INVALID,
    ),
    "the update of another site": (
        lambda d: entry(d).update(update=entry(d, 1)["update"]),
        Problem.UPDATE_SIGNATURE_INVALID,
    ),
    "a signature left out": (lambda d: entry(d)["update"].update(signed=None), Problem.UPDATE_UNSIGNED),
    "a certificate left out": (
        lambda d: [entry(d, 0, number)["update"]["signed"].update(certificate_pem="") for number in (1, 2)],
        Problem.SIGNING_KEY_UNCONFIRMED,
    ),
    "a certificate that is none": (
        lambda d: d.update(certificates=["none"]),
        Problem.SIGNING_CERTIFICATE_INVALID,
    ),
    "other weights": (lambda d: entry(d).update(weight=0.5), Problem.WEIGHTS_DIFFER),
    "a site left out": (lambda d: d["run"]["rounds"][0]["roster"].pop(0), Problem.ROSTER_IMPOSSIBLE),
    "a site twice": (
        lambda d: d["run"]["rounds"][0]["roster"].insert(0, entry(d)),
        Problem.ROSTER_IMPOSSIBLE,
    ),
    "an accepted update without one": (lambda d: entry(d).update(update=None), Problem.ROSTER_IMPOSSIBLE),
    "absurd counts": (lambda d: entry(d)["update"].update(num_examples=-1), Problem.ROSTER_IMPOSSIBLE),
    "an open answer": (lambda d: entry(d).update(outcome="joined"), Problem.ROSTER_IMPOSSIBLE),
    "another assignment": (lambda d: entry(d).update(assignment_id="0" * 32), Problem.ROSTER_IMPOSSIBLE),
    "a round left out": (lambda d: d["run"]["rounds"].pop(0), Problem.LINEAGE_BROKEN),
    "no round": (lambda d: d["run"].update(rounds=[]), Problem.LINEAGE_BROKEN),
    "another version": (lambda d: d.update(version=1), Problem.LINEAGE_BROKEN),
    "another start": (
        lambda d: d["run"]["rounds"][1].update(global_adapter=d["run"]["first_adapter"]),
        Problem.LINEAGE_BROKEN,
    ),
    "a round that failed": (lambda d: d["run"]["rounds"][0].update(phase="failed"), Problem.LINEAGE_BROKEN),
    "no candidate": (lambda d: d["run"]["rounds"][1].update(candidate=None), Problem.LINEAGE_BROKEN),
    "a rejection": (lambda d: d["run"]["rounds"][1].update(phase="rejected"), Problem.GATE_DIFFERS),
    "scores where there is no gate": (
        lambda d: d["run"]["rounds"][1].update(scores={"mean_loss": 1, "num_examples": 1, "num_label_tokens": 1}),
        Problem.GATE_DIFFERS,
    ),
    "losses left out": (lambda d: d["run"]["rounds"][0].update(is_weighed_by_size=True), Problem.WEIGHTS_DIFFER),
    "other terms": (lambda d: set_terms(d, learning_rate=1e-3), Problem.TERMS_DIFFER),
    "impossible terms": (lambda d: set_terms(d, learning_rate=9.0), Problem.TERMS_DIFFER),
    "a strategy that nobody has": (
        lambda d: d["run"]["terms"]["aggregation"].update(strategy="magic"),
        Problem.TERMS_DIFFER,
    ),
    "another digest of the terms": (lambda d: d.update(terms_digest="sha256:" + "0" * 64), Problem.TERMS_DIFFER),
    "another run": (lambda d: d["run"].update(run_id="0" * 32), Problem.TERMS_DIFFER),
    "another form": (lambda d: d["run"]["spec"].update(lora_alpha=9), Problem.SPECIFICATION_DIFFERS),
    "no form": (lambda d: d["run"].update(spec=None), Problem.SPECIFICATION_DIFFERS),
    "another consortium": (lambda d: d.update(consortium="elsewhere"), Problem.MANIFEST_UNREADABLE),
    "another format": (lambda d: d.update(format=3), Problem.MANIFEST_UNREADABLE),
    "no head of the audit log": (lambda d: d.update(audit_head="none"), Problem.MANIFEST_UNREADABLE),
    "no list of files": (lambda d: d.update(files=[]), Problem.MANIFEST_UNREADABLE),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_hostile_coordinators_lie_is_found_and_named(honest: Path, signers: Signers, lie: str) -> None:
    change, problem = LIES[lie]
    forge(honest, signers, change)
    found = checked(honest, signers)
    assert problem in {each.problem for each in found.findings}, found.findings
    assert all(each.file and each.detail for each in found.findings)
    assert found.is_false or problem.is_doubt


@pytest.mark.parametrize(
    ("name", "is_withdrawn", "expected"),
    [
        ("zz\nrounds computed again: all", False, "a name of 1 to 63 of a-z, 0-9 and inner '-'"),
        ("zz", True, "an update that the terms keep, to be deleted on withdrawal"),
    ],
    ids=["a name that would write a line of its own", "a withdrawal of what was never there"],
)
def test_who_gave_nothing_is_named_as_a_site_and_had_nothing_deleted(
    honest: Path, signers: Signers, name: str, is_withdrawn: bool, expected: str
) -> None:
    def add(document: dict[str, Any]) -> None:
        added = {**straggler(document, name), "is_withdrawn": is_withdrawn}
        document["run"]["rounds"][0]["roster"].append(added)

    forge(honest, signers, add)
    said = [each.detail for each in checked(honest, signers).findings if each.about.endswith(name)]
    assert any(detail.startswith(f"expected {expected}") for detail in said), said


@pytest.mark.parametrize("lie", ["a signature left out", "a certificate left out"])
def test_what_is_not_proven_is_told_from_what_is_false(honest: Path, signers: Signers, lie: str) -> None:
    forge(honest, signers, LIES[lie][0])
    found = checked(honest, signers)
    assert (found.is_false, found.is_doubtful) == (False, True)
    assert found.recomputed == (1, 2)


def test_another_adapter_in_place_of_the_aggregate_is_found_and_named(honest: Path, signers: Signers) -> None:
    """The coordinator says that the updates gave an adapter that they did not give."""
    content = (honest / WEIGHTS_FILE).read_bytes()
    changed = content[:-2] + bytes([content[-2] ^ 1]) + content[-1:]

    def change(document: dict[str, Any]) -> None:
        relisted(document, honest, WEIGHTS_FILE, changed)
        document["run"]["rounds"][1]["candidate"]["digest"] = digest_of(changed)
        lineage_file = json.loads((honest / LINEAGE_FILE).read_bytes())
        lineage_file["digest"] = digest_of(changed)
        relisted(document, honest, LINEAGE_FILE, json.dumps(lineage_file).encode())

    forge(honest, signers, change)
    assert named(checked(honest, signers)) == {(Problem.AGGREGATE_DIFFERS, WEIGHTS_FILE)}


def test_an_update_that_lies_in_the_place_of_a_signed_one_is_found(honest: Path, signers: Signers) -> None:
    """The record holds what the site signed, the list what the coordinator would like to have aggregated."""
    name = f"updates/round-0001/{ANNA}.safetensors"
    other = (honest / f"updates/round-0002/{ANNA}.safetensors").read_bytes()
    forge(honest, signers, lambda document: relisted(document, honest, name, other))
    assert named(checked(honest, signers)) == {(Problem.LINEAGE_BROKEN, name)}


def test_a_round_cannot_go_unchecked_because_an_update_was_left_out(honest: Path, signers: Signers) -> None:
    name = f"updates/round-0001/{ANNA}.safetensors"
    (honest / name).unlink()

    def change(document: dict[str, Any]) -> None:
        document["files"] = [file for file in document["files"] if file["path"] != name]

    forge(honest, signers, change)
    assert named(checked(honest, signers)) == {(Problem.FILE_MISSING, name)}


def test_weights_that_no_round_names_are_found_though_they_are_listed(honest: Path, signers: Signers) -> None:
    name = "adapters/better.safetensors"
    content = (honest / WEIGHTS_FILE).read_bytes()

    def change(document: dict[str, Any]) -> None:
        document["files"].append({"path": name, "digest": digest_of(content), "size_bytes": len(content)})
        (honest / name).write_bytes(content)

    forge(honest, signers, change)
    assert named(checked(honest, signers)) == {(Problem.FILE_UNEXPECTED, name)}


@pytest.mark.parametrize("change", [{"round": 1}, {"roster": []}, {"scores": {}}, {"terms": {"name": "other"}}])
def test_a_lineage_file_that_says_otherwise_than_the_record_is_found(
    honest: Path, signers: Signers, change: dict[str, Any]
) -> None:
    content = json.dumps({**json.loads((honest / LINEAGE_FILE).read_bytes()), **change}).encode()
    forge(honest, signers, lambda document: relisted(document, honest, LINEAGE_FILE, content))
    assert named(checked(honest, signers)) == {(Problem.LINEAGE_BROKEN, LINEAGE_FILE)}


def test_a_lineage_file_of_a_version_that_says_more_is_no_lie(honest: Path, signers: Signers) -> None:
    content = json.dumps({**json.loads((honest / LINEAGE_FILE).read_bytes()), "weather": "fair"}).encode()
    forge(honest, signers, lambda document: relisted(document, honest, LINEAGE_FILE, content))
    assert checked(honest, signers).findings == ()


def test_another_adapter_than_the_last_candidate_is_found(honest: Path, signers: Signers) -> None:
    update = (honest / f"updates/round-0001/{ANNA}.safetensors").read_bytes()
    forge(honest, signers, lambda document: relisted(document, honest, "adapter_model.safetensors", update))
    assert named(checked(honest, signers)) == {(Problem.LINEAGE_BROKEN, "adapter_model.safetensors")}


def test_another_scale_of_the_adapter_is_found(honest: Path, signers: Signers) -> None:
    name = "adapter_config.json"
    content = (honest / name).read_bytes().replace(b'"lora_alpha": 8', b'"lora_alpha": 80')
    forge(honest, signers, lambda document: relisted(document, honest, name, content))
    assert named(checked(honest, signers)) == {(Problem.SPECIFICATION_DIFFERS, name)}


async def test_the_key_of_a_site_whose_certificate_comes_later_is_confirmed(tmp_path: Path, signers: Signers) -> None:
    async with coordinator(tmp_path / "state", keys=signers.known) as world:
        await play(world, release_terms(count=1), signers)
        certificates = [signers.key_of(site).certificate_pem for site in (ANNA, BERTA)]
        folder = await write_release(world, signers, tmp_path / "release", certificates=certificates)

    def without_theirs(document: dict[str, Any]) -> None:
        for site in (0, 1, 2):
            entry(document, site)["update"]["signed"]["certificate_pem"] = ""

    forge(folder, signers, without_theirs)
    found = checked(folder, signers)
    assert [(each.problem, each.about) for each in found.findings] == [
        (Problem.SIGNING_KEY_UNCONFIRMED, "round 1, clara")
    ]


# Other runs


@pytest.mark.parametrize("on_rejection", OnRejection)
async def test_the_lineage_of_a_version_holds_the_rounds_that_the_gate_rejected(
    tmp_path: Path, signers: Signers, on_rejection: OnRejection
) -> None:
    gate = GateTerms(metric=GateMetric.STRICT_F1, on_rejection=on_rejection)
    folder = await released(tmp_path, signers, release_terms(count=3, gate=gate), f1_tenths=(5, 2, 8))
    found = checked(folder, signers)
    assert (found.findings, found.recomputed) == ((), (1, 2, 3))
    assert [str(past.phase) for past in manifest_of(folder).run.rounds] == ["committed", "rejected", "committed"]

    def promote(document: dict[str, Any]) -> None:
        document["run"]["rounds"][1]["phase"] = "committed"

    forge(folder, signers, promote)
    assert Problem.GATE_DIFFERS in {each.problem for each in checked(folder, signers).findings}


async def test_the_losses_behind_the_weights_are_checked(tmp_path: Path, signers: Signers) -> None:
    plus = AggregationTerms(strategy="fed_medlora_plus", fed_medlora_plus=FedMedLoraPlusTerms())
    folder = await released(tmp_path, signers, release_terms(plus, count=1))

    def better(document: dict[str, Any]) -> None:
        entry(document)["scores"]["mean_loss"] = 0.25

    forge(folder, signers, better)
    assert Problem.WEIGHTS_DIFFER in {each.problem for each in checked(folder, signers).findings}


async def test_without_updates_the_rest_is_still_checked_and_what_was_not_is_told(
    tmp_path: Path, signers: Signers
) -> None:
    folder = await released(tmp_path, signers, release_terms(), with_updates=False)
    found = checked(folder, signers)
    assert (found.findings, found.signed_updates, found.recomputed) == ((), 6, ())


async def test_an_earlier_version_is_released_without_what_came_later(tmp_path: Path, signers: Signers) -> None:
    folder = await released(tmp_path, signers, release_terms(), version=1)
    assert checked(folder, signers).findings == ()
    assert len(manifest_of(folder).run.rounds) == 1


async def test_who_is_waited_for_at_the_time_of_the_release_is_not_in_it(tmp_path: Path, signers: Signers) -> None:
    run = manifest_of(await released(tmp_path, signers, release_terms())).run
    hold = Hold(agent=SiteName("north"), assignment_id=AssignmentId("0" * 32), reason=Reason.POLICY_HOURS, since=START)
    assert lineage_of(replace(run, holds=(hold,)), 2) == lineage_of(run, 2)


async def test_a_federation_that_does_not_sign_is_not_confirmed(tmp_path: Path, signers: Signers) -> None:
    async with coordinator(tmp_path / "state", keys=signers.known) as world:
        await play(world, release_terms(count=1), None)
        folder = await write_release(world, signers, tmp_path / "release")
    found = checked(folder, signers)
    assert {each.problem for each in found.findings} == {Problem.UPDATE_UNSIGNED}
    assert (found.is_doubtful, found.signed_updates) == (True, 0)


async def test_where_the_terms_ask_for_signatures_an_unsigned_update_is_false(tmp_path: Path, signers: Signers) -> None:
    terms = release_terms(count=1)
    terms = replace(terms, admission=replace(terms.admission, requires_signatures=True))
    folder = await released(tmp_path, signers, terms)
    assert checked(folder, signers).findings == ()

    def without_it(document: dict[str, Any]) -> None:
        entry(document)["update"]["signed"] = None

    forge(folder, signers, without_it)
    assert {each.problem for each in checked(folder, signers).findings} == {Problem.UPDATE_SIGNATURE_INVALID}

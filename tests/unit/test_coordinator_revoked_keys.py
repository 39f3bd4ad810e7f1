"""The root's list of revoked signing keys: who may write it, and what a verified release says with it."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.errors import FedMedError, InputInvalidError
from common.ids import Digest
from common.signing import fingerprint
from coordinator.adapters.pki.ca import CA_CERTIFICATE_FILE, create_issuing_ca, load_ca
from coordinator.app.release_manifest import MANIFEST_FILE
from coordinator.app.revoked_keys import RevokedKeys, read_list, sign_list
from coordinator.app.verify_release import Verification, verify_release
from coordinator.cli import app
from coordinator.domain.verify import Problem
from tests.fakes.coordinator_values import ANNA, BERTA
from tests.fakes.coordinator_world import coordinator
from tests.fakes.releases import play, release_terms, write_release
from tests.fakes.signing import Signers


@pytest.fixture(scope="module")
def signers(tmp_path_factory: pytest.TempPathFactory) -> Signers:
    return Signers(tmp_path_factory.mktemp("signers"))


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory, signers: Signers) -> Path:
    """A release of two rounds of three sites that signed."""
    root = tmp_path_factory.mktemp("released")

    async def made() -> Path:
        async with coordinator(root / "state", keys=signers.known) as world:
            await play(world, release_terms(), signers)
            return await write_release(world, signers, root / "release")

    return asyncio.run(made())


def listed(signers: Signers, *keys: Digest, consortium: str = "demo") -> bytes:
    unsigned = RevokedKeys(consortium=consortium, made_at=datetime(2026, 11, 27, tzinfo=UTC), keys=keys)
    return sign_list(unsigned, load_ca(signers.folder / "ca").key)


def verified(release: Path, signers: Signers, scratch: Path, *keys: str) -> Verification:
    return verify_release(release, signers.root, scratch, [fingerprint(key) for key in keys])


def test_contributions_under_a_revoked_key_are_named_and_count_as_signed_no_more(
    release: Path, signers: Signers, tmp_path: Path
) -> None:
    found = verified(release, signers, tmp_path, signers.key_of(ANNA).public_key)
    assert [(each.problem, each.file, each.about) for each in found.findings] == [
        (Problem.SIGNING_KEY_REVOKED, MANIFEST_FILE, "round 1, anna"),
        (Problem.SIGNING_KEY_REVOKED, MANIFEST_FILE, "round 2, anna"),
    ]
    assert (found.is_doubtful, found.signed_updates, found.recomputed) == (True, 4, (1, 2))


def test_a_release_that_a_revoked_key_has_signed_is_none(release: Path, signers: Signers, tmp_path: Path) -> None:
    found = verified(release, signers, tmp_path, signers.release_key.public_key)
    assert [each.problem for each in found.findings] == [Problem.RELEASE_SIGNATURE_INVALID]
    assert found.is_false


def test_a_list_is_read_back_as_it_was_signed(signers: Signers) -> None:
    keys = tuple(sorted(fingerprint(signers.key_of(site).public_key) for site in (ANNA, BERTA)))
    read = read_list(listed(signers, *keys), signers.root)
    assert (read.consortium, read.made_at, read.keys) == ("demo", datetime(2026, 11, 27, tzinfo=UTC), keys)


def test_a_list_counts_only_as_the_root_of_its_consortium_signed_it(signers: Signers, tmp_path: Path) -> None:
    key = fingerprint(signers.key_of(ANNA).public_key)
    honest = listed(signers, key)
    shorter = json.dumps({**json.loads(honest), "keys": []}).encode()
    unsigned = json.dumps({**json.loads(honest), "signature": ""}).encode()
    for content, problem in (
        (shorter, "the consortium's root signed"),
        (unsigned, "the consortium's root signed"),
        (listed(Signers(tmp_path), key), "the consortium's root signed"),
        (listed(signers, key, consortium="other"), "expected one of demo, got one of other"),
        (listed(signers, Digest("anna")), "disown"),
        (b"[" * 10_000, "disown"),
        (b"", "disown"),
    ):
        with pytest.raises(InputInvalidError, match=problem):
            read_list(content, signers.root)


def run(*arguments: str) -> str:
    done = CliRunner().invoke(app, list(arguments))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return f"{done.exit_code}: {done.output}"


def test_the_root_s_list_only_grows_and_the_verifier_is_told_of_when_it_is(
    release: Path, signers: Signers, tmp_path: Path
) -> None:
    ca, out = str(signers.folder / "ca"), tmp_path / "revoked_keys.json"
    anna, berta = (fingerprint(signers.key_of(site).public_key) for site in (ANNA, BERTA))
    for key in (anna, berta):
        run("key", "disown", key, "--ca", ca, "--out", str(out))
    assert set(read_list(out.read_bytes(), signers.root).keys) == {anna, berta}
    root = str(signers.folder / "ca" / CA_CERTIFICATE_FILE)
    said = run("verify", str(release), "--ca", root, "--revoked", str(out))
    assert said.startswith("3: ")
    assert "signing_key_revoked: release.json (round 2, berta)" in said
    assert "revoked keys: 2, as of 20" in said


def test_a_ca_below_the_root_signs_no_list(signers: Signers, tmp_path: Path) -> None:
    issuing = create_issuing_ca(signers.folder / "ca", tmp_path / "issuing").folder
    key = fingerprint(signers.key_of(ANNA).public_key)
    with pytest.raises(FedMedError, match="expected the root's folder"):
        run("key", "disown", key, "--ca", str(issuing), "--out", str(tmp_path / "revoked_keys.json"))

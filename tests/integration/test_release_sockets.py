"""A release fetched over mutual TLS and verified by the command, for runs in each kind of database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from common.errors import FedMedError, Reason
from common.hash_chain import entries_of
from common.tls import Role
from coordinator.adapters.pki.ca import CA_CERTIFICATE_FILE
from coordinator.adapters.rpc.operator_client import connect
from coordinator.adapters.rpc.release_client import fetch_release
from coordinator.adapters.storage.postgres import PostgresDatabase
from coordinator.app.make_release import ReleaseWish
from tests.fakes.coordinator_served import Served, serving
from tests.fakes.coordinator_values import ANNA
from tests.fakes.coordinator_world import World, coordinator
from tests.fakes.releases import POLICIES, manifest_of, play, release_terms
from tests.fakes.signing import Signers
from tests.postgres import PostgresServer
from tests.running import make_consortium


@pytest.fixture
def signers(tmp_path: Path) -> Signers:
    return Signers(tmp_path / "consortium")


@pytest_asyncio.fixture(params=["sqlite", "postgres"])
async def world(request: pytest.FixtureRequest, tmp_path: Path, signers: Signers) -> AsyncIterator[World]:
    """A coordinator whose run has ended; its two rounds' updates were kept."""
    held = None
    if request.param == "postgres":
        server: PostgresServer = request.getfixturevalue("postgres")
        held = PostgresDatabase(server.url(tmp_path))
        held.take()
    async with coordinator(tmp_path / "state", database=held, keys=signers.known) as opened:
        await play(opened, release_terms(), signers)
        yield opened
    if held is not None:
        held.let_go()


@pytest_asyncio.fixture
async def served(world: World, signers: Signers) -> AsyncIterator[Served]:
    consortium = make_consortium(signers.folder)
    async with serving(world, consortium, release_key=signers.release_key) as opened:
        yield opened


async def fetched(served: Served, out: Path, **wish: object) -> Path:
    identity = served.consortium.identity("operator", Role.OPERATOR)
    async with connect(served.address, identity) as client:
        await fetch_release(client, ReleaseWish(run="trial", **wish), out)  # type: ignore[arg-type]
    return out


def command(*arguments: str, within: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    line = [sys.executable, "-m", "coordinator", *arguments]
    return subprocess.run(line, capture_output=True, text=True, env=environment, cwd=within)


async def test_a_third_party_with_the_release_and_the_root_certificate_alone_is_told_yes(
    served: Served, world: World, signers: Signers, tmp_path: Path
) -> None:
    empty = tmp_path / "third-party"  # but for the release and the root's certificate
    folder = await fetched(served, empty / "release")
    root = tmp_path / "third-party" / CA_CERTIFICATE_FILE
    root.write_bytes(signers.root_pem)
    said = command("verify", "release", "--ca", CA_CERTIFICATE_FILE, within=empty)
    assert (said.returncode, said.stdout.splitlines()) == (
        0,
        [
            "release: yes",
            "version 2 of trial (demo)",
            "updates signed by keys that the root confirms: 6 of 6",
            "policies of their own that the sites gave them under: 2 shown, 2 withheld, 2 unwritten",
            "rounds computed again from their updates: 1, 2",
        ],
    ), said.stderr

    update = next(folder.glob("updates/round-0002/*"))
    update.write_bytes(update.read_bytes()[:-1] + b"\x7f")
    said = command("verify", str(folder), "--ca", str(root), "--json")
    document = json.loads(said.stdout)
    assert (said.returncode, document["verdict"]) == (1, "no")
    assert [each["file"] for each in document["findings"]] == [str(update.relative_to(folder))]
    assert document["given_under"][0] == {
        "round": 1,
        "site": ANNA,
        "stand": "shown",
        "digest": POLICIES[ANNA].digest,
    }


async def test_a_release_is_in_the_audit_log_whose_head_before_it_the_release_holds(
    served: Served, world: World, tmp_path: Path
) -> None:
    before = await world.store.audit_head()
    folder = await fetched(served, tmp_path / "release")
    identity = served.consortium.identity("operator", Role.OPERATOR)
    async with connect(served.address, identity) as client:
        lines = [line async for line in client.audit_lines()]
    assert manifest_of(folder).audit_head == str(before)
    last = list(entries_of(lines))[-1].document
    assert (last["action"], last["caller"], last["round_number"]) == ("released", "spiffe://demo/operator/operator", 2)

    log = tmp_path / "audit.jsonl"
    log.write_bytes(b"".join(line + b"\n" for line in lines))
    assert command("audit", "verify", str(log), "--release", str(folder)).returncode == 0
    lines[1] = lines[1].replace(b"trial", b"other")
    log.write_bytes(b"".join(line + b"\n" for line in lines))
    said = command("audit", "verify", str(log), "--release", str(folder))
    assert (said.returncode, "entry 3" in said.stdout) == (1, True)


async def test_a_log_that_was_cut_off_shows_against_the_head_in_a_release(
    served: Served, world: World, tmp_path: Path
) -> None:
    folder = await fetched(served, tmp_path / "release")
    lines = await world.store.audit_lines(0, 3)
    log = tmp_path / "audit.jsonl"
    log.write_bytes(b"".join(line + b"\n" for line in lines))
    assert command("audit", "verify", str(log)).returncode == 0
    assert command("audit", "verify", str(log), "--release", str(folder)).returncode == 1


async def test_a_folder_that_holds_something_is_not_filled(served: Served, tmp_path: Path) -> None:
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "notes").write_text("mine")
    with pytest.raises(FedMedError) as refused:
        await fetched(served, tmp_path / "release")
    assert refused.value.reason is Reason.CONFIG_INVALID


@pytest.mark.parametrize("version", [3, 2**31])
async def test_a_version_that_was_not_promoted_is_refused_and_leaves_nothing(
    served: Served, tmp_path: Path, version: int
) -> None:
    with pytest.raises(FedMedError) as refused:
        await fetched(served, tmp_path / "out" / "release", version=version)
    assert refused.value.reason is Reason.ADAPTER_UNKNOWN
    assert list((tmp_path / "out").iterdir()) == []


async def test_a_coordinator_without_a_release_key_says_so(world: World, signers: Signers, tmp_path: Path) -> None:
    async with serving(world, make_consortium(signers.folder)) as served:
        with pytest.raises(FedMedError) as refused:
            await fetched(served, tmp_path / "release")
    assert refused.value.reason is Reason.RELEASE_KEY_MISSING

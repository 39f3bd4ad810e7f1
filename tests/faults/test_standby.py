"""Two coordinators on one store: one serves, the other waits, and there are never two that write. Real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.processes import ROOT
from tests.faults.standby import WAIT_SECONDS, Coordinator, write_config
from tests.postgres import PASSWORD, PostgresServer
from tests.running import make_consortium

pytestmark = pytest.mark.slow


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a coordinator keeps its runs."""
    if request.param == "sqlite":
        return ""
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.url(tmp_path)


@pytest.fixture
def pair(tmp_path: Path, database: str) -> Iterator[tuple[Coordinator, Coordinator]]:
    """One that serves, and one that waits, on one folder."""
    config = write_config(make_consortium(tmp_path), tmp_path / "state", database)
    yield from started(config, config)


def started(first_config: Path, second_config: Path) -> Iterator[tuple[Coordinator, Coordinator]]:
    folder = first_config.parent
    coordinators = [Coordinator(first_config, folder / "first.log")]
    try:
        coordinators[0].wait_for("coordinator_started")
        coordinators.append(Coordinator(second_config, folder / "second.log"))
        coordinators[1].wait_for("coordinator_waits")
        yield coordinators[0], coordinators[1]
    finally:
        for each in coordinators:
            each.end()


def test_the_waiting_one_takes_over_when_the_first_is_killed(pair: tuple[Coordinator, Coordinator]) -> None:
    first, second = pair
    assert not second.has_said("coordinator_started")
    first.process.kill()
    second.wait_for("coordinator_started")


def test_the_waiting_one_takes_over_when_the_first_is_asked_to_stop(pair: tuple[Coordinator, Coordinator]) -> None:
    first, second = pair
    first.process.terminate()
    second.wait_for("coordinator_started")
    assert first.process.wait(WAIT_SECONDS) == 0


def test_a_first_one_that_is_stopped_and_continued_still_serves_alone(pair: tuple[Coordinator, Coordinator]) -> None:
    first, second = pair
    os.kill(first.process.pid, signal.SIGSTOP)
    third = subprocess.run(  # one that does not wait says who holds the folder, while the first cannot answer
        [sys.executable, "-m", "coordinator", "serve", "--config", str(first.config)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'proto'}"},
        capture_output=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    os.kill(first.process.pid, signal.SIGCONT)
    assert (third.returncode, b"STORE_IN_USE" in third.stderr) == (2, True)
    assert not second.has_said("coordinator_started")
    first.process.terminate()
    assert first.process.wait(WAIT_SECONDS) == 0
    second.wait_for("coordinator_started")


def test_a_waiting_one_ends_when_it_is_asked_to(pair: tuple[Coordinator, Coordinator]) -> None:
    _, second = pair
    second.process.terminate()
    second.process.wait(WAIT_SECONDS)
    assert not second.has_said("coordinator_started")


# A folder on two machines, whose file system does not bring the lock of one to the other: only the database knows


@pytest.fixture
def apart(postgres: PostgresServer, tmp_path: Path) -> Iterator[tuple[Coordinator, Coordinator]]:
    """One that serves, and one that waits, on one database and one set of files."""
    consortium, url = make_consortium(tmp_path), postgres.url(tmp_path)
    configs = [write_config(consortium, tmp_path / name, url) for name in ("here", "there")]
    (tmp_path / "there").mkdir()
    for name in ("updates", "adapters", "registry"):
        (tmp_path / "there" / name).symlink_to(tmp_path / "here" / name)
    yield from started(*configs)


def test_on_another_machine_too_the_waiting_one_takes_over_when_the_first_is_killed(
    apart: tuple[Coordinator, Coordinator],
) -> None:
    first, second = apart
    assert not second.has_said("coordinator_started")
    first.process.kill()
    second.wait_for("coordinator_started")


def test_one_that_was_stopped_for_long_ends_when_it_goes_on_and_finds_another_in_its_place(
    apart: tuple[Coordinator, Coordinator], postgres: PostgresServer, tmp_path: Path
) -> None:
    first, second = apart
    os.kill(first.process.pid, signal.SIGSTOP)
    second.wait_for("coordinator_started")
    database = postgres.database(tmp_path)
    assert postgres.execute("SELECT epoch FROM writer", database=database) == [(2,)]
    os.kill(first.process.pid, signal.SIGCONT)
    assert first.process.wait(WAIT_SECONDS) == 2
    said = first.log.path.read_text()
    assert said.splitlines()[-1].startswith("STORE_IN_USE: another coordinator has taken the database")
    assert PASSWORD not in said
    assert second.process.poll() is None

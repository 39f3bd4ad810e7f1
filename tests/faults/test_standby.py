"""Two coordinators on one state folder: one serves, the other waits, and there are never two. Real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.tls import Role
from tests.faults.processes import LEASHED, ROOT, Log
from tests.running import free_port, make_consortium, wait_until

pytestmark = pytest.mark.slow
WAIT_SECONDS = 60.0


class Coordinator:
    """A process that serves ``config`` as soon as it may."""

    def __init__(self, config: Path, log: Path) -> None:
        self.log = Log(log)
        self.config = config
        command = [sys.executable, "-m", "coordinator", "serve", "--standby", "--config", str(config)]
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'proto'}"}
        with log.open("wb") as output:
            self.process = subprocess.Popen([*LEASHED, *command], stdout=output, stderr=output, env=environment)

    def has_said(self, event: str) -> bool:
        """Whether it has come so far."""
        self.log.new_lines()
        return any(line["event"] == event for line in self.log.lines)

    def wait_for(self, event: str) -> None:
        wait_until(lambda: self.has_said(event), WAIT_SECONDS)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[Coordinator, Coordinator]]:
    """One that serves, and one that waits."""
    consortium = make_consortium(tmp_path)
    config = tmp_path / "coordinator.toml"
    identity = consortium.identity("coordinator", Role.COORDINATOR)
    config.write_text(
        f'[coordinator]\nlisten = "127.0.0.1:{free_port()}"\nstate_folder = "{tmp_path / "state"}"\n'
        f'[identity]\nfolder = "{identity}"\n[metrics]\nlisten = ""\n'
    )
    first = Coordinator(config, tmp_path / "first.log")
    first.wait_for("coordinator_started")
    second = Coordinator(config, tmp_path / "second.log")
    second.wait_for("coordinator_waits")
    try:
        yield first, second
    finally:
        for each in (first, second):
            each.process.kill()
            each.process.wait()


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

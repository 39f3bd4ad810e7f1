"""Coordinators of one consortium as processes that wait for each other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from common.tls import Role
from tests.faults.processes import LEASHED, ROOT, Log
from tests.running import Consortium, free_port, wait_until

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
        """Fail when it does not come so far."""
        wait_until(lambda: self.has_said(event), WAIT_SECONDS)

    def end(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()


def write_config(consortium: Consortium, state: Path, database: str = "") -> Path:
    """A configuration beside ``state``, on a port of its own."""
    config = state.with_suffix(".toml")
    identity = consortium.identity("coordinator", Role.COORDINATOR)
    config.write_text(
        f'[coordinator]\nlisten = "127.0.0.1:{free_port()}"\nstate_folder = "{state}"\ndatabase = "{database}"\n'
        f'[identity]\nfolder = "{identity}"\n[metrics]\nlisten = ""\n'
    )
    return config

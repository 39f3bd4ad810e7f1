"""What `.ci/run` asks for, with stand-ins for the programs that it calls."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / ".ci/run"


def stand_in(folder: Path, name: str, script: str) -> None:
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_ci_checks_and_then_tests_with_no_leave_to_skip_what_it_installs(tmp_path: Path) -> None:
    stand_in(tmp_path, "dpkg-query", "printf installed")
    stand_in(tmp_path, "make", 'echo "make $* CI=$CI"')
    environment = {name: value for name, value in os.environ.items() if name != "CI"}
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"

    ended = subprocess.run([SCRIPT], capture_output=True, text=True, env=environment, check=True)

    assert ended.stdout.splitlines() == ["make check CI=1", "make test CI=1"]

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

    assert ended.stdout.splitlines() == ["make check CI=1", "make encoder CI=1", "make test CI=1"]


def test_make_passes_the_variables_of_the_demo_on(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    stand_in(programs, "python", 'test "$*" = "-m demo" && echo "$ROUNDS $SITES $DEVICE $MODEL $DATA $THREE_SHOT"')
    given = {"ROUNDS": "2", "SITES": "2", "DEVICE": "cpu", "MODEL": "/m", "DATA": "/d", "THREE_SHOT": "1"}
    root = SCRIPT.parents[1]
    # Set-up is taken as done, and the environment of Python is the stand-in's.
    settings = [f"VENV={os.path.relpath(tmp_path, root)}", "TORCH_STAMP=", "SETUP_STAMP="]
    variables = [f"{name}={value}" for name, value in given.items()]

    ended = subprocess.run(
        ["make", "demo", *settings, *variables], capture_output=True, text=True, check=False, cwd=root
    )

    assert ended.stdout.splitlines() == [" ".join(given.values())], ended.stderr

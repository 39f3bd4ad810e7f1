"""Fuzz a target with atheris (libFuzzer) for so many executions; say what was found, and which lines were reached.

::

    python -m tests.fuzz header --runs 1000000 [--seconds 600] [--keep] [--json FILE]

Inputs lie in `.cache/fuzz/<target>` and go on from there; ``--keep`` writes the smallest set of them that reaches as
much to the corpus of the tests. A crash, an input of more than 10 s and more than 1 GiB of memory end it with that
input's file.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from pathlib import Path

from benchmarks import machine
from tests.fuzz.targets import CORPUS, TARGETS, kept_inputs, missed, worth_keeping

SECONDS_EACH, MEBIBYTES, LONGEST_BYTES = 10, 1024, 4096
WORK = Path(".cache/fuzz")


def main() -> int:
    """The command."""
    parser = machine.parser(__doc__ or "")
    parser.add_argument("target", choices=sorted(TARGETS))
    parser.add_argument("--runs", type=int, default=100_000, help="executions")
    parser.add_argument("--seconds", type=int, default=0, help="at most so long; 0: until all runs are done")
    parser.add_argument("--keep", action="store_true", help="renew the corpus of the tests")
    options = parser.parse_args()
    folder = WORK / options.target
    folder.mkdir(parents=True, exist_ok=True)
    for index, seed in enumerate(TARGETS[options.target].seeds()):
        (folder / f"seed-{index}").write_bytes(seed)
    limits = [f"-runs={options.runs}", f"-max_total_time={options.seconds}"]
    ended = _libfuzzer(options.target, [*limits, str(folder), *_existing(CORPUS / options.target)])
    executions = int((re.findall(r"stat::number_of_executed_units: (\d+)", ended.stderr) or ["0"])[-1])
    inputs = [path.read_bytes() for path in sorted(folder.iterdir())] + kept_inputs(options.target)
    if options.keep and ended.returncode == 0:
        _renew_corpus(options.target, inputs)
    total, lines_missed = missed(options.target, inputs)
    unreached = sum(map(len, lines_missed.values()))
    report = {
        "target": options.target,
        "executions": executions,
        "exit_code": ended.returncode,
        "lines": total,
        "lines_reached": total - unreached,
        "lines_missed": lines_missed,
        "machine": machine.machine(),
    }
    if ended.returncode:
        print(ended.stderr[-4000:])
    print(
        f"{options.target}: {executions} executions, exit code {ended.returncode}, {total - unreached} of {total} lines"
    )
    print(f"not reached: {lines_missed}")
    machine.write_figures(options.json, report)
    return ended.returncode


def _renew_corpus(name: str, inputs: list[bytes]) -> None:
    kept = CORPUS / name
    kept.mkdir(parents=True, exist_ok=True)
    for path in kept.iterdir():
        path.unlink()
    for content in worth_keeping(name, inputs):
        (kept / hashlib.sha256(content).hexdigest()[:16]).write_bytes(content)


def _existing(folder: Path) -> list[str]:
    return [str(folder)] if folder.is_dir() else []


def _libfuzzer(name: str, arguments: list[str]) -> subprocess.CompletedProcess[str]:
    """LibFuzzer ends the process that it runs in, so it gets one of its own."""
    limits = [f"-timeout={SECONDS_EACH}", f"-rss_limit_mb={MEBIBYTES}", f"-max_len={LONGEST_BYTES}"]
    command = [sys.executable, "-m", "tests.fuzz.inside", name]
    WORK.mkdir(parents=True, exist_ok=True)
    found = f"-artifact_prefix={WORK}/{name}-"
    return subprocess.run(
        [*command, "-print_final_stats=1", found, *limits, *arguments], capture_output=True, text=True, check=False
    )


if __name__ == "__main__":
    sys.exit(main())

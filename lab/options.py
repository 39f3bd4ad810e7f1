"""What ``fedmed-lab`` is asked to do: its command line, as one value."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.arguments import whole_number
from common.config import parse_seconds
from lab.encoder.package import FOLDER

CHECK, RUN, REPORT = "check", "run", "report"
_STEPS = {
    CHECK: "check the file, its terms, and that the corpora are there and large enough",
    RUN: "do what is not done yet, and report; killed, it goes on where it was when it is called again",
    REPORT: "write tables, numbers and figures of what is done by now",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """One call.

    Attributes:
        data: Folder of annotated corpora.
        out: Folder of results; experiments that share it share their cells.
        at_once: Trainers beside each other.
        findings: Files of what earlier runs, or other machines, have found.
        until_seconds: No work is begun after so many seconds; infinite: to the end.
    """

    step: str
    file: Path
    data: Path
    base_model: str
    encoder: Path
    out: Path
    device: str
    threads: int
    at_once: int
    until_seconds: float
    is_dry: bool
    findings: tuple[Path, ...] = ()


def parse_options(arguments: Sequence[str]) -> Options:
    """Read the command line; a wrong one ends the process with what is wrong."""
    parser = argparse.ArgumentParser(prog="fedmed-lab", description="Experiments with the services' own code.")
    parser.add_argument(
        "step", choices=list(_STEPS), help="; ".join(f"{step}: {what}" for step, what in _STEPS.items())
    )
    parser.add_argument("file", type=Path, help="the experiment (TOML)")
    parser.add_argument("--data", type=Path, required=True, help="folder of annotated corpora, a folder each")
    parser.add_argument(
        "--base-model", default=".cache/smollm2-135m", help="a folder, or a hub id in the local cache [%(default)s]"
    )
    parser.add_argument(
        "--encoder", type=Path, default=FOLDER, help="a BERT's folder, for the arms of encoders [%(default)s]"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/lab"), help="folder of results; may be shared [%(default)s]"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N [%(default)s]")
    parser.add_argument("--threads", type=whole_number, default=1, help="CPU threads of each trainer [%(default)s]")
    parser.add_argument("--jobs", type=whole_number, default=1, help="trainers beside each other [%(default)s]")
    parser.add_argument("--until", type=_duration, default=float("inf"), help="begin no work after this long: 90m")
    parser.add_argument("--dry-run", action="store_true", help="list what is yet to be done, and how long it takes")
    parser.add_argument(
        "--findings", type=Path, nargs="+", default=[], metavar="FILE", help="findings.jsonl of earlier runs or of "
        "other machines: what they hold is not done again",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    return Options(
        step=given.step,
        file=given.file,
        data=given.data.resolve(),
        base_model=given.base_model,
        encoder=given.encoder.resolve(),
        out=given.out.resolve(),
        device=given.device,
        threads=given.threads,
        at_once=given.jobs,
        until_seconds=given.until,
        is_dry=given.dry_run,
        findings=tuple(given.findings),
    )


def _duration(text: str) -> float:
    try:
        return parse_seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, got {text!r}") from None

"""What a demo is asked to do: from the command line, or from the environment that `make demo` passes on."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

from common.arguments import whole_number

DEFAULT_BASE_MODEL = Path(".cache/smollm2-135m")
# The corpora that DATA= must hold, one folder each, with these files; docs/hospital.md has their format.
CORPORA = ("maccrobat", "chia", "phee")
CORPUS_FILES = ("train.jsonl", "dev.jsonl", "test.jsonl")
# Sentence-level examples a site and round. The corpora's sites are less alike than the generated ones, and a federation
# of them takes longer to come near what each learns alone; this much fits into a quarter of an hour on two CPU cores.
EXAMPLES, EXAMPLES_OF_CORPORA = 80, 120


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """One demo.

    Attributes:
        data: Folder of annotated corpora, or None for generated notes.
        sites: How many sites take part.
        test_passages: Passages of each site that are scored at the end; more, where they are short.
        with_three_shot: Whether the base model is scored with three worked examples in its prompt, too.
    """

    out: Path
    base_model: str
    data: Path | None
    sites: int
    rounds: int
    device: str
    examples_per_round: int
    test_passages: int
    seed: int
    with_three_shot: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareOptions:
    """For ``prepare``: addresses of a federation whose processes are containers, say; ports are the same in each."""

    coordinator: str
    coordinator_listen: str
    enrolment_listen: str
    metrics_listen: str
    base_model: str


def parse_options(arguments: list[str]) -> tuple[DemoOptions, PrepareOptions | None]:
    """What to run, or what to prepare and not run; empty environment variables count as unset."""
    parser = argparse.ArgumentParser(prog="python -m demo", description="A whole federation on this machine.")
    parser.add_argument("step", nargs="?", choices=("run", "prepare"), default="run")
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder of the demo, emptied first")
    parser.add_argument(
        "--model", default=_env("MODEL", str(DEFAULT_BASE_MODEL)), help="folder or cached hub id of a base model"
    )
    parser.add_argument("--data", default=_env("DATA", ""), help="folder of annotated corpora; empty generates notes")
    parser.add_argument("--sites", type=whole_number, default=_env("SITES", "3"), help="number of sites")
    parser.add_argument("--rounds", type=whole_number, default=_env("ROUNDS", "3"), help="number of rounds")
    parser.add_argument("--device", default=_env("DEVICE", "auto"), help="auto, cpu, cuda or cuda:N")
    parser.add_argument(
        "--examples",
        type=whole_number,
        help=f"sentence-level examples a site and round; by default {EXAMPLES}, with DATA {EXAMPLES_OF_CORPORA}",
    )
    parser.add_argument(
        "--test-passages", type=whole_number, default="25", help="scored passages a site; more, where they are short"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument(
        "--three-shot",
        action="store_true",
        default=_env("THREE_SHOT", "0") != "0",
        help="score the base model with three worked examples in its prompt, too",
    )
    addresses = parser.add_argument_group("prepare only", "addresses of a federation that something else starts")
    addresses.add_argument("--coordinator", default="coordinator:8443", help="what agents dial")
    addresses.add_argument("--listen", default="0.0.0.0:8443", help="where the coordinator listens")
    addresses.add_argument("--enrolment-listen", default="0.0.0.0:8444", help="where it lets agents enrol")
    addresses.add_argument("--metrics-listen", default="0.0.0.0:9100", help="of every process")
    addresses.add_argument("--base-model-at", default="", help="where agents find the base model, if elsewhere")
    given = parser.parse_args(arguments)
    data = Path(given.data).resolve() if given.data else None
    if data is not None and (problem := _what_is_wrong_with(data, given.sites)):
        parser.error(problem)
    options = DemoOptions(
        out=given.out.resolve(),
        base_model=str(Path(given.model).resolve()) if Path(given.model).is_dir() else given.model,
        data=data,
        sites=given.sites,
        rounds=given.rounds,
        device=given.device,
        examples_per_round=given.examples or (EXAMPLES if data is None else EXAMPLES_OF_CORPORA),
        test_passages=given.test_passages,
        seed=given.seed,
        with_three_shot=given.three_shot,
    )
    if given.step == "run":
        return options, None
    return options, PrepareOptions(
        coordinator=given.coordinator,
        coordinator_listen=given.listen,
        enrolment_listen=given.enrolment_listen,
        metrics_listen=given.metrics_listen,
        base_model=given.base_model_at,
    )


def _what_is_wrong_with(data: Path, sites: int) -> str | None:
    if sites > len(CORPORA):
        return f"SITES: expected at most {len(CORPORA)} with DATA, one for each corpus, got {sites}"
    needed = [f"{corpus}/{name}" for corpus in CORPORA[:sites] for name in CORPUS_FILES]
    missing = [name for name in needed if not (data / name).is_file()]
    return f"DATA: expected files of annotated passages in {data}, missing: {', '.join(missing)}" if missing else None


def _env(name: str, default: str) -> str:
    return os.environ.get(name) or default

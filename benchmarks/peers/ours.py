"""This project doing the peers' work."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from benchmarks.federation import prepare, synthetic_terms, trainer_of
from benchmarks.peers.work import AGGREGATING, SITES, Measured, Span, Work, measured
from benchmarks.usage import TREE_SAMPLE_SECONDS, TreeWatch, watching
from common.adapter import WireDtype
from demo.federation import loopback, run_prepared
from demo.processes import process_group
from fedmedlora.v1 import admin_pb2


def measure_ours(folder: Path, work: Work, dtype: WireDtype) -> Measured:
    """Run a federation as `benchmarks.federation` does, each tree of processes watched.

    Raises:
        RuntimeError: a process died, or the run did not complete.
    """
    names = [f"site-{number}" for number in range(1, work.sites + 1)]
    addresses = loopback(work.sites + 1)
    terms = synthetic_terms(work.lora, names, work.rounds, dtype)
    prepared = prepare(folder, terms, addresses, trainer_of(work.shape, "EACH"))
    with process_group(folder / "logs") as group:

        def pids(wanted: list[str]) -> list[int]:
            return [pid for pid in map(group.pid_of, wanted) if pid is not None]

        trees = TreeWatch(lambda: {AGGREGATING: pids(["coordinator"]), SITES: pids(names)})
        with watching(trees, TREE_SAMPLE_SECONDS) as watch:
            run = run_prepared(prepared, addresses, group, Console(file=sys.stderr, quiet=True))
    return measured("fedmedlora", dtype.value, work, [_span(past) for past in run.rounds], watch)


def _span(past: admin_pb2.RoundReport) -> Span:
    return Span(began=past.opened_at.ToNanoseconds() / 1e9, ended=past.closed_at.ToNanoseconds() / 1e9)

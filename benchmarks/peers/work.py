"""The work that every system does, what is measured of it, and how figures are made of moments and samples."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from benchmarks.shapes import SHAPES, adapter_spec
from benchmarks.transport import ADAPTERS
from benchmarks.usage import MACHINE, TreeWatch
from common.adapter import AdapterSpec, WireDtype
from common.terms import LoraTerms

# Names of the two trees of processes: what aggregates with all that it starts, and all sites with all that they start.
AGGREGATING, SITES = "server", "clients"


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Rounds in which every site takes the global adapter, changes a little, and returns it with a count."""

    adapter: str
    sites: int
    rounds: int
    time_limit: float

    @property
    def shape(self) -> str:
        """The model whose adapter it is."""
        return ADAPTERS[self.adapter][0]

    @property
    def lora(self) -> LoraTerms:
        """The adapter's rank and modules."""
        rank = ADAPTERS[self.adapter][1]
        return replace(LoraTerms(), lora_rank=rank, lora_alpha=2 * rank)

    def spec(self, dtype: WireDtype) -> AdapterSpec:
        """Names and shapes of the adapter's tensors."""
        return adapter_spec(SHAPES[self.shape], self.lora, dtype)

    def write(self, folder: Path) -> Path:
        """The file from which a peer's code learns its work; beside it, its code writes the moments of its rounds."""
        tensors = [[tensor.name, list(tensor.shape)] for tensor in self.spec(WireDtype.F32).tensors]
        told = {"tensors": tensors, "sites": self.sites, "rounds": self.rounds, "timeline": str(timeline_of(folder))}
        path = folder / "work.json"
        path.write_text(json.dumps(told), encoding="utf-8")
        return path


def copy_inside(app: str, folder: Path) -> None:
    """Put a peer's code, and what all peers' code shares, into the folder from which the peer loads it."""
    for name in (app, "peer_work.py"):
        shutil.copy(Path(__file__).parent / "inside" / name, folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """When a round began and when its aggregate was there, in seconds since the epoch."""

    began: float
    ended: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One row: a system doing the work; with a reason and without figures, if it could not."""

    system: str
    dtype: str
    work: Work
    failure: str = ""
    seconds_per_round: float = 0.0
    server_peak_rss_bytes: int = 0
    server_cpu_seconds_per_round: float = 0.0
    clients_peak_rss_bytes: int = 0
    clients_cpu_seconds_per_round: float = 0.0
    others_share_of_cpu: float = 0.0  # what the rest of the machine took meanwhile: how far seconds can be trusted


def timeline_of(folder: Path) -> Path:
    """Where the code inside a peer writes a line when a round begins, and when its aggregate is there."""
    return folder / "timeline.jsonl"


def spans_of(folder: Path, sites_change: float) -> list[Span]:
    """The rounds that have ended.

    Raises:
        RuntimeError: the number that every site raises by ``sites_change`` is not what a weighted mean makes of it.
    """
    path = timeline_of(folder)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    notes = [json.loads(line) for line in lines]
    began = [note["at"] for note in notes if note["event"] == "began"]
    ended = [note for note in notes if note["event"] == "aggregated"]
    for number, note in enumerate(ended, start=1):
        if abs(note["number"] - number * sites_change) > 1e-3:
            raise RuntimeError(f"round {number}: the mean is {note['number']}, expected {number * sites_change}")
    return [Span(began=begin, ended=end["at"]) for begin, end in zip(began, ended, strict=False)]


def measured(system: str, dtype: str, work: Work, spans: Sequence[Span], watch: TreeWatch) -> Measured:
    """Seconds are the median of all rounds but the first, CPU time is from the second's begin to the last one's end."""
    counted = spans[1:] or spans
    begin, end = counted[0].began, counted[-1].ended
    trees = sum(watch.cpu_seconds(name, begin, end) for name in watch.samples if name != MACHINE)
    others = watch.cpu_seconds(MACHINE, begin, end) - trees
    return Measured(
        system=system,
        dtype=dtype,
        work=work,
        seconds_per_round=median(span.ended - span.began for span in counted),
        server_peak_rss_bytes=watch.peak_rss_bytes(AGGREGATING),
        server_cpu_seconds_per_round=watch.cpu_seconds(AGGREGATING, begin, end) / len(counted),
        clients_peak_rss_bytes=watch.peak_rss_bytes(SITES),
        clients_cpu_seconds_per_round=watch.cpu_seconds(SITES, begin, end) / len(counted),
        others_share_of_cpu=max(0.0, others) / ((end - begin) * (os.cpu_count() or 1)),
    )

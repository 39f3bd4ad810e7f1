"""Memory and seconds of one aggregation by each strategy: Llama-3.1-8B's adapter, each strategy in a fresh process.

The process has imported what a coordinator imports; its memory is the most that was ever resident. The round is one
after the first: the global adapter has the strategy's `published_rank` in full, and a server optimiser has moments,
which a round before it made. Seconds are the last round's. Files are in the page cache, updates are random moves of a
random adapter. No socket and no database: `benchmarks.transport` has those.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from common.tls import harden_tls

harden_tls()  # before anything imports grpc

import numpy as np  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

import coordinator.wiring  # noqa: E402, F401 - a coordinator's memory before it does anything
from benchmarks.federation import synthetic_terms  # noqa: E402
from benchmarks.machine import parser, write_figures  # noqa: E402
from benchmarks.shapes import SHAPES, adapter_spec  # noqa: E402
from benchmarks.transport import MEMORY_BOUND_BYTES  # noqa: E402
from benchmarks.usage import usage_of  # noqa: E402
from common.adapter import AdapterSpec, WireDtype  # noqa: E402
from common.ids import RunId, SiteName, derived_id, digest_of  # noqa: E402
from common.malloc import tune_malloc  # noqa: E402
from common.terms import STRATEGIES_WITH_PARAMETERS, AggregationTerms, LoraTerms, Terms  # noqa: E402
from common.weights_io import WeightsReader, WeightsWriter  # noqa: E402
from coordinator.app.aggregate_round import RoundFiles, aggregate  # noqa: E402
from coordinator.domain.aggregation import STRATEGIES, check_needs, strategy_of  # noqa: E402
from coordinator.domain.cohort import invite  # noqa: E402
from coordinator.domain.run_machine import create_run  # noqa: E402
from coordinator.domain.values import AdapterFile, RosterEntry, Scores, SiteOutcome, Update  # noqa: E402

LORA = LoraTerms(lora_rank=16, lora_alpha=32)
CANDIDATES, STATES = ("1.candidate", "2.candidate"), ("1.state", "2.state")
SHAPE = SHAPES["llama-3.1-8b"]
GLOBAL = "global-{}.safetensors"


def terms_of(strategy: str, sites: list[str], published_rank: int | None = None) -> Terms:
    """Terms that name ``strategy``, with its parameters' defaults, but for ``published_rank`` where it has that."""
    kind = STRATEGIES_WITH_PARAMETERS.get(strategy)
    parameters = {} if kind is None else {strategy: kind()}
    if published_rank is not None and hasattr(parameters.get(strategy), "published_rank"):
        parameters = {strategy: replace(parameters[strategy], published_rank=published_rank)}
    aggregation = AggregationTerms(strategy=strategy, **parameters)
    return replace(synthetic_terms(LORA, sites, rounds=2), aggregation=aggregation)


def write_files(folder: Path, spec: AdapterSpec, ranks: Collection[int], sites: list[str]) -> None:
    """A global adapter of each rank, and an update of all factors for each site."""
    shapes = {GLOBAL.format(rank): spec.at_rank(rank) for rank in ranks} | dict.fromkeys(sites, spec)
    for number, (name, shape) in enumerate(shapes.items()):
        with WeightsWriter(folder / name, shape.tensors, shape.dtype) as writer:
            for index, tensor in enumerate(shape.tensors):
                start = np.random.default_rng(index).standard_normal(tensor.shape, np.float32)
                move = np.random.default_rng(1000 * number + index).standard_normal(tensor.shape, np.float32)
                writer.write(tensor.name, start + np.float32(0.01) * move if name in sites else start)


def measure_here(terms: Terms, spec: AdapterSpec, folder: Path) -> dict[str, object]:
    """Aggregate in this process, twice where something is kept from round to round."""
    tune_malloc()
    check_needs(strategy_of(terms), terms)
    run = replace(create_run(RunId(derived_id("run")), terms, datetime.now(UTC)), spec=spec)
    sites = frozenset(map(SiteName, terms.rounds.sites))
    roster = [_accepted(entry) for entry in invite(run.run_id, 1, sites)]
    files = RoundFiles(
        updates=[folder / entry.site for entry in roster], current=folder / GLOBAL.format(terms.published_rank)
    )
    began = time.monotonic()
    if aggregate(run, roster, files, folder / CANDIDATES[0], folder / STATES[0]).state is not None:
        began, files = time.monotonic(), replace(files, current=folder / CANDIDATES[0], state=folder / STATES[0])
        aggregate(run, roster, files, folder / CANDIDATES[1], folder / STATES[1])
    seconds, peak_rss_bytes = time.monotonic() - began, usage_of(os.getpid()).peak_rss_bytes
    with WeightsReader(files.current) as current:
        global_rank = min(current.tensor(spec.names[0]).shape)
    return {
        "strategy": terms.aggregation.strategy,
        "sites": len(sites),
        "global_rank": global_rank,
        "seconds": seconds,
        "peak_rss_bytes": peak_rss_bytes,
    }


def main() -> int:
    """Measure all strategies; exit code 1 when one took more memory than a coordinator may."""
    options = parser(__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--sites", type=int, default=8)
    options.add_argument("--layers", type=int, default=SHAPE.layers, help="so many of the model's")
    options.add_argument("--published-rank", type=int, help="of strategies that have one, in place of its default")
    options.add_argument("--strategies", nargs="+", choices=sorted(STRATEGIES), default=sorted(STRATEGIES))
    options.add_argument("--here", type=Path, help="for the processes that this one starts: aggregate in this folder")
    given = options.parse_args()
    sites = [f"site-{number}" for number in range(1, given.sites + 1)]
    spec = adapter_spec(replace(SHAPE, layers=given.layers), LORA, WireDtype.BF16)
    if given.here:
        terms = terms_of(given.strategies[0], sites, given.published_rank)
        print(json.dumps(measure_here(terms, spec, given.here)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        ranks = {terms_of(strategy, sites, given.published_rank).published_rank for strategy in given.strategies}
        write_files(folder, spec, ranks, sites)
        figures = [_measured(strategy, folder, given) for strategy in given.strategies]
    table = Table("strategy", "rank", "seconds", "MB")
    for row in figures:
        seconds, megabytes = float(str(row["seconds"])), _bytes(row) / 1e6
        table.add_row(str(row["strategy"]), str(row["global_rank"]), f"{seconds:.1f}", f"{megabytes:.0f}")
    Console().print(table)
    write_figures(given.json, figures)
    return int(any(_bytes(row) > MEMORY_BOUND_BYTES for row in figures))


def _measured(strategy: str, folder: Path, given: Namespace) -> dict[str, object]:
    command = [sys.executable, "-m", "benchmarks.aggregation", "--here", str(folder), "--strategies", strategy]
    command += ["--sites", str(given.sites), "--layers", str(given.layers)]
    command += [] if given.published_rank is None else ["--published-rank", str(given.published_rank)]
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    for name in (*CANDIDATES, *STATES):
        (folder / name).unlink(missing_ok=True)
    row: dict[str, object] = json.loads(said)
    return row


def _accepted(entry: RosterEntry) -> RosterEntry:
    file = AdapterFile(digest=digest_of(entry.site.encode()), size_bytes=1)
    return replace(
        entry,
        outcome=SiteOutcome.ACCEPTED,
        update=Update(file=file, num_examples=100, num_label_tokens=5000),
        scores=Scores(mean_loss=1.0, num_examples=100, num_label_tokens=5000),
    )


def _bytes(row: dict[str, object]) -> int:
    return int(str(row["peak_rss_bytes"]))


if __name__ == "__main__":
    sys.exit(main())

"""Memory and seconds of one aggregation by each strategy: Llama-3.1-8B's adapter, each strategy in a fresh process.

The process has imported what a coordinator imports; its memory is the most that was ever resident. Files are in the
page cache, updates are random moves of a random adapter. No socket and no database: `benchmarks.transport` has those.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import NoneType
from typing import get_args, get_type_hints

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
from common.weights_io import WeightsWriter  # noqa: E402
from coordinator.app.aggregate_round import RoundFiles, aggregate  # noqa: E402
from coordinator.domain.aggregation import STRATEGIES, check_needs, strategy_of  # noqa: E402
from coordinator.domain.cohort import invite  # noqa: E402
from coordinator.domain.run_machine import create_run  # noqa: E402
from coordinator.domain.values import AdapterFile, RosterEntry, Scores, SiteOutcome, Update  # noqa: E402

LORA = LoraTerms(lora_rank=16, lora_alpha=32)
GLOBAL = "global.safetensors"


def terms_of(strategy: str, sites: list[str]) -> Terms:
    """Terms that name ``strategy``, with its parameters' defaults."""
    kinds = get_type_hints(AggregationTerms)
    parameters = {
        name: next(kind for kind in get_args(kinds[name]) if kind is not NoneType)()
        for name in STRATEGIES_WITH_PARAMETERS
        if name == strategy
    }
    aggregation = AggregationTerms(strategy=strategy, **parameters)
    return replace(synthetic_terms(LORA, sites, rounds=1), aggregation=aggregation)


def write_files(folder: Path, spec: AdapterSpec, sites: list[str]) -> None:
    """A global adapter, and an update of all factors for each site."""
    for number, name in enumerate([GLOBAL, *sites]):
        with WeightsWriter(folder / name, spec.tensors, spec.dtype) as writer:
            for index, tensor in enumerate(spec.tensors):
                start = np.random.default_rng(index).standard_normal(tensor.shape, np.float32)
                move = np.random.default_rng(1000 * number + index).standard_normal(tensor.shape, np.float32)
                writer.write(tensor.name, start if number == 0 else start + np.float32(0.01) * move)


def measure_here(strategy: str, folder: Path, sites: list[str]) -> dict[str, object]:
    """Aggregate once in this process."""
    tune_malloc()
    terms = terms_of(strategy, sites)
    check_needs(strategy_of(terms), terms)
    spec = adapter_spec(SHAPES["llama-3.1-8b"], LORA, WireDtype.BF16)
    run = replace(create_run(RunId(derived_id("run")), terms, datetime.now(UTC)), spec=spec)
    roster = [_accepted(entry) for entry in invite(run.run_id, 1, frozenset(map(SiteName, sites)))]
    began = time.monotonic()
    files = RoundFiles(updates=[folder / entry.site for entry in roster], current=folder / GLOBAL)
    aggregate(run, roster, files, folder / f"{strategy}.candidate", folder / f"{strategy}.state")
    seconds = time.monotonic() - began
    return {
        "strategy": strategy,
        "sites": len(sites),
        "seconds": seconds,
        "peak_rss_bytes": usage_of(os.getpid()).peak_rss_bytes,
    }


def main() -> int:
    """Measure all strategies; exit code 1 when one took more memory than a coordinator may."""
    options = parser(__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--sites", type=int, default=8)
    options.add_argument("--strategies", nargs="+", choices=sorted(STRATEGIES), default=sorted(STRATEGIES))
    options.add_argument("--here", type=Path, help="for the processes that this one starts: aggregate in this folder")
    given = options.parse_args()
    sites = [f"site-{number}" for number in range(1, given.sites + 1)]
    if given.here:
        print(json.dumps(measure_here(given.strategies[0], given.here, sites)))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, adapter_spec(SHAPES["llama-3.1-8b"], LORA, WireDtype.BF16), sites)
        figures = [_measured(strategy, folder, given.sites) for strategy in given.strategies]
    table = Table("strategy", "seconds", "MB")
    for row in figures:
        table.add_row(str(row["strategy"]), f"{float(str(row['seconds'])):.1f}", f"{_bytes(row) / 1e6:.0f}")
    Console().print(table)
    write_figures(given.json, figures)
    return int(any(_bytes(row) > MEMORY_BOUND_BYTES for row in figures))


def _measured(strategy: str, folder: Path, sites: int) -> dict[str, object]:
    command = [sys.executable, "-m", "benchmarks.aggregation", "--here", str(folder)]
    command += ["--sites", str(sites), "--strategies", strategy]
    said = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    for kind in ("candidate", "state"):
        (folder / f"{strategy}.{kind}").unlink(missing_ok=True)
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

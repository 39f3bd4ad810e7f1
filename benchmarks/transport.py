"""Rounds without training: seconds, the coordinator's memory and CPU time, bytes on the wire, by number of sites.

Beside each stands the machine's raw limit (`benchmarks.raw_limit`) for the same bytes, taken in the same run.

Real processes over mutual TLS; only the trainer is synthetic (`benchmarks.synthetic_trainer`), and what it takes to
disturb the adapter is in the seconds. Memory is the most that was resident, pages of files included.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

from common.tls import harden_tls

harden_tls()  # before anything imports grpc: TLS 1.3 only
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # processes are started, never forked into

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks.federation import synthetic_federation  # noqa: E402
from benchmarks.machine import parser, write_figures  # noqa: E402
from benchmarks.raw_limit import raw_seconds  # noqa: E402
from common.terms import LoraTerms  # noqa: E402

# The paper's largest adapter (84 MB in bf16), and a small one (7.4 MB).
ADAPTERS = {"large": ("llama-3.1-8b", 16), "small": ("smollm2-135m", 12)}
MEMORY_BOUND_BYTES = 350_000_000


def measure(adapter: str, sites: int, rounds: int) -> dict[str, object]:
    """Run a federation; its first round, in which processes warm up, does not count for the seconds."""
    shape, lora_rank = ADAPTERS[adapter]
    with tempfile.TemporaryDirectory() as folder:
        lora = replace(LoraTerms(), lora_rank=lora_rank, lora_alpha=2 * lora_rank)
        ended = synthetic_federation(Path(folder), shape, lora, sites=sites, rounds=rounds)
    seconds = [past.duration.ToTimedelta().total_seconds() for past in ended.run.rounds]
    entries = [entry for past in ended.run.rounds for entry in past.roster]
    raw = raw_seconds(sites, ended.run.served_adapter.size_bytes)
    return {
        "adapter": adapter,
        "sites": sites,
        "rounds": rounds,
        "file_bytes": ended.run.served_adapter.size_bytes,
        "seconds_per_round": median(seconds[1:] or seconds),
        "raw_limit_seconds": raw,
        "coordinator_peak_rss_bytes": ended.coordinator.peak_rss_bytes,
        "coordinator_cpu_seconds_per_round": ended.coordinator.cpu_seconds / rounds,
        "agent_peak_rss_bytes": ended.site.peak_rss_bytes,
        "wire_bytes_per_round": sum(entry.upload_bytes + entry.download_bytes for entry in entries) / rounds,
    }


def main() -> int:
    """Measure all cases; exit code 1 when the coordinator or an agent took more memory than it may."""
    options = parser(__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--adapters", nargs="+", choices=ADAPTERS, default=list(ADAPTERS))
    options.add_argument("--sites", type=int, nargs="+", default=[2, 4, 8])
    options.add_argument("--rounds", type=int, default=3)
    given = options.parse_args()
    figures = [measure(adapter, sites, given.rounds) for adapter in given.adapters for sites in given.sites]
    table = Table("adapter", "sites", "s / round", "raw s", "MB", "CPU s / round", "agent MB", "wire MB / round")
    for row in figures:
        table.add_row(
            f"{row['adapter']}, {_number(row, 'file_bytes') / 1e6:.1f} MB",
            str(row["sites"]),
            f"{_number(row, 'seconds_per_round'):.1f}",
            f"{_number(row, 'raw_limit_seconds'):.1f}",
            f"{_number(row, 'coordinator_peak_rss_bytes') / 1e6:.0f}",
            f"{_number(row, 'coordinator_cpu_seconds_per_round'):.1f}",
            f"{_number(row, 'agent_peak_rss_bytes') / 1e6:.0f}",
            f"{_number(row, 'wire_bytes_per_round') / 1e6:.0f}",
        )
    Console().print(table)
    write_figures(given.json, figures)
    peaks = ("coordinator_peak_rss_bytes", "agent_peak_rss_bytes")
    return int(any(_number(row, peak) > MEMORY_BOUND_BYTES for row in figures for peak in peaks))


def _number(row: dict[str, object], name: str) -> float:
    return float(str(row[name]))


if __name__ == "__main__":
    sys.exit(main())

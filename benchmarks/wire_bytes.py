"""Bytes on the wire of one site in one round, against the adapter's bf16 safetensors file.

Real processes over mutual TLS; only the trainer is synthetic (`benchmarks.synthetic_trainer`). Bytes are protobuf
payload, counted at the coordinator: assignment, adapter, progress and update of a site in a round.
"""

from __future__ import annotations

import os
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from common.tls import harden_tls

harden_tls()  # before anything imports grpc: TLS 1.3 only
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")  # processes are started, never forked into

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks.federation import synthetic_federation  # noqa: E402
from benchmarks.machine import parser, write_figures  # noqa: E402
from common.terms import LoraTerms  # noqa: E402

# The demo's adapter, and the paper's largest (41,943,040 parameters).
CASES = (("smollm2-135m", 8), ("smollm2-135m", 16), ("llama-3.1-8b", 16))
BOUND = 1.02


def measure(shape: str, lora_rank: int, sites: int, rounds: int) -> dict[str, object]:
    """Run a federation of that shape; the largest share of the file that any site moved in any round."""
    with tempfile.TemporaryDirectory() as folder:
        lora = replace(LoraTerms(), lora_rank=lora_rank, lora_alpha=2 * lora_rank)
        ended = synthetic_federation(Path(folder), shape, lora, sites=sites, rounds=rounds)
    file_bytes = ended.run.served_adapter.size_bytes
    entries = [entry for past in ended.run.rounds for entry in past.roster]
    return {
        "shape": shape,
        "lora_rank": lora_rank,
        "parameters": ended.parameters,
        "file_bytes": file_bytes,
        "up_ratio": max(entry.upload_bytes for entry in entries) / file_bytes,
        "down_ratio": max(entry.download_bytes for entry in entries) / file_bytes,
        "seconds_per_round": [past.duration.ToTimedelta().total_seconds() for past in ended.run.rounds],
    }


def main() -> int:
    """Measure all cases; exit code 1 when one is over the bound."""
    options = parser(__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--sites", type=int, default=2)
    options.add_argument("--rounds", type=int, default=2)
    given = options.parse_args()
    figures = [measure(shape, rank, given.sites, given.rounds) for shape, rank in CASES]
    table = Table("adapter", "parameters", "file", "up / file", "down / file")
    for row in figures:
        name = f"{row['shape']} r{row['lora_rank']}"
        size = f"{int(str(row['file_bytes'])) / 1e6:.2f} MB"
        ratios = [f"{float(str(row[key])):.4f}" for key in ("up_ratio", "down_ratio")]
        table.add_row(name, f"{row['parameters']:,}", size, *ratios)
    Console().print(table)
    write_figures(given.json, figures)
    return int(any(float(str(row[key])) > BOUND for row in figures for key in ("up_ratio", "down_ratio")))


if __name__ == "__main__":
    sys.exit(main())

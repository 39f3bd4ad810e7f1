"""What the coordinator's aggregation holds in memory: the benchmark, of one layer of Llama-3.1-8B's adapter."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.transport import MEMORY_BOUND_BYTES
from common.strategy_terms import FedExLoraTerms, FloraTerms

DEFAULT_RANKS = {"flora": FloraTerms().published_rank, "fedex_lora": FedExLoraTerms().published_rank}


def peaks(folder: Path, *options: str) -> dict[tuple[str, int], int]:
    """Bytes by strategy and rank of the global adapter; memory is a module's, so one layer takes about what all do."""
    out = folder / "figures.json"
    command = [sys.executable, "-m", "benchmarks.aggregation", "--layers", "1", "--json", str(out), *options]
    subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, stdout=subprocess.DEVNULL)
    rows = json.loads(out.read_text())["figures"]
    return {(row["strategy"], row["global_rank"]): row["peak_rss_bytes"] for row in rows}


@pytest.mark.slow
def test_eight_sites_of_an_8b_model_are_combined_within_the_bound_from_a_global_adapter_of_the_published_rank(
    tmp_path: Path,
) -> None:
    figures = peaks(tmp_path, "--strategies", *DEFAULT_RANKS)
    assert figures.keys() == DEFAULT_RANKS.items()
    assert max(figures.values()) < MEMORY_BOUND_BYTES

"""The bound on bytes, on real processes with a synthetic trainer: the demo's adapter, and one of Llama-3.1-8B's shape.

That the roster's bytes are those of the messages sent is a test of `tests/integration/test_coordinator_streams.py`.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.federation import synthetic_federation
from benchmarks.wire_bytes import BOUND
from common.terms import LoraTerms
from fedmedlora.v1 import admin_pb2

SITES = 2
BF16_BYTES = 2
# (shape of the base model, LoRA rank, parameters of the adapter, rounds)
CASES = [("smollm2-135m", 8, 2_442_240, 2), ("llama-3.1-8b", 16, 41_943_040, 1)]


@pytest.mark.parametrize(("shape", "lora_rank", "parameters", "rounds"), CASES, ids=[case[0] for case in CASES])
def test_no_site_moves_more_than_the_adapters_file_and_two_percent_in_any_round(
    tmp_path: Path, shape: str, lora_rank: int, parameters: int, rounds: int
) -> None:
    lora = LoraTerms(lora_rank=lora_rank, lora_alpha=4 * lora_rank)
    ended = synthetic_federation(tmp_path, shape, lora, sites=SITES, rounds=rounds)
    assert ended.parameters == parameters
    file_bytes = ended.run.served_adapter.size_bytes
    assert parameters * BF16_BYTES < file_bytes < 1.02 * parameters * BF16_BYTES  # the factors, and a header
    entries = [entry for past in ended.run.rounds for entry in past.roster]
    assert [entry.outcome for entry in entries] == [admin_pb2.SITE_OUTCOME_ACCEPTED] * (SITES * rounds)
    for entry in entries:
        assert file_bytes <= entry.upload_bytes <= BOUND * file_bytes
        assert file_bytes <= entry.download_bytes <= BOUND * file_bytes

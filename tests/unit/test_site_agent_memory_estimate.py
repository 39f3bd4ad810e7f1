"""How much memory a run's training takes, and whether the device has it, by the doctor's arithmetic."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from common.terms import LoraTerms, TrainingTerms
from site_agent.adapters import machine_checks
from site_agent.app.doctor import CheckState, judge_memory, lora_here, ok, skipped
from site_agent.cli import app
from site_agent.domain.memory_estimate import MemoryNeed, ModelShape, TrainingShape, needed_bytes
from tests.fakes.site_values import EVERY_KIND, make_terms
from tests.tiny_model import make_tiny_model

GIB = 2**30
LLAMA_8B = ModelShape(
    parameters=8_030_261_248, linear_parameters=6_979_321_856, hidden_size=4096, layers=32, vocabulary=128_256
)


def need(*by_rank: int, least_lora_rank: int = 0) -> MemoryNeed:
    return MemoryNeed(by_rank=by_rank, least_lora_rank=least_lora_rank)


def test_the_estimate_is_the_sum_of_its_parts() -> None:
    terms = TrainingShape(adapter_parameters=0, tokens_per_batch=0, is_quantized=False, is_recomputed=False)
    assert needed_bytes(LLAMA_8B, terms) == 2 * LLAMA_8B.parameters + GIB
    adapter = TrainingShape(adapter_parameters=10**6, tokens_per_batch=0, is_quantized=False, is_recomputed=False)
    assert needed_bytes(LLAMA_8B, adapter) - needed_bytes(LLAMA_8B, terms) == 16 * 10**6
    tokens = TrainingShape(adapter_parameters=0, tokens_per_batch=1, is_quantized=False, is_recomputed=False)
    grown = needed_bytes(LLAMA_8B, tokens) - needed_bytes(LLAMA_8B, terms)
    assert grown == 4096 * 56 * 32 + 128_256 * 10
    recomputed = [
        replace(terms, is_recomputed=True, tokens_per_batch=tokens, is_on_gpu=is_on_gpu)
        for is_on_gpu in (True, False)
        for tokens in (0, 1)
    ]
    gpu_none, gpu_one, cpu_none, cpu_one = (needed_bytes(LLAMA_8B, each) for each in recomputed)
    assert gpu_one - gpu_none == 4096 * (2 * 32 + 56) + 128_256 * 10
    assert cpu_one - cpu_none == 4096 * (4 * 32 + 68) + 128_256 * 16


def test_quantisation_and_recomputation_bring_an_8b_model_from_a_large_gpu_to_a_common_one() -> None:
    whole = TrainingShape(adapter_parameters=42 * 10**6, tokens_per_batch=2048, is_quantized=False, is_recomputed=False)
    small = TrainingShape(adapter_parameters=42 * 10**6, tokens_per_batch=2048, is_quantized=True, is_recomputed=True)
    assert 24 * GIB < needed_bytes(LLAMA_8B, whole) < 40 * GIB
    assert 6 * GIB < needed_bytes(LLAMA_8B, small) < 12 * GIB
    assert judge_memory("gpu_memory", 24 * GIB, need(needed_bytes(LLAMA_8B, whole))).state is CheckState.FAILED


def test_the_machines_memory_counts_where_training_is_on_its_cpu() -> None:
    on_gpu, on_cpu = ok("gpu", "A GPU"), skipped("gpu", "trainer.device is cpu")
    assert machine_checks.check_memory(on_cpu, need(GIB), lambda: 2 * GIB).state is CheckState.OK
    too_little = machine_checks.check_memory(on_cpu, need(3 * GIB), lambda: 2 * GIB)
    assert (too_little.name, too_little.state) == ("memory", CheckState.FAILED)
    assert machine_checks.check_memory(on_gpu, need(3 * GIB), lambda: 2 * GIB).state is CheckState.SKIPPED
    assert machine_checks.check_memory(on_cpu, None, lambda: 2 * GIB).state is CheckState.SKIPPED
    assert 0 < machine_checks.machine_memory_bytes() < 2**50


def test_what_a_run_asks_for_changes_the_estimate(tmp_path: Path) -> None:
    folder, lora, training = make_tiny_model(tmp_path / "tiny"), LoraTerms(), TrainingTerms()

    def estimate(lora: LoraTerms, training: TrainingTerms, *, is_on_gpu: bool = True) -> int:
        needed = machine_checks.estimate_for(folder, lora, training, is_on_gpu=is_on_gpu)
        assert needed is not None
        return needed.total_bytes

    usual = estimate(lora, training)
    assert estimate(replace(lora, lora_rank=32), training) > usual
    assert estimate(replace(lora, target_modules=("q_proj",)), training) < usual
    assert estimate(lora, replace(training, tokens_per_batch=1024)) < usual
    assert estimate(lora, replace(training, batch_size=1)) < usual, "a batch is no larger than its examples"
    assert estimate(lora, replace(training, gradient_checkpointing=True)) < usual
    assert estimate(lora, training, is_on_gpu=False) != usual
    assert machine_checks.estimate_for(tmp_path, lora, training, is_on_gpu=True) is None, "nothing is there"


def test_the_estimate_at_each_rank_is_that_of_terms_of_the_rank(tmp_path: Path) -> None:
    folder, lora, training = make_tiny_model(tmp_path / "tiny"), LoraTerms(lora_rank=8), TrainingTerms()
    at_8 = machine_checks.estimate_for(folder, lora, training, is_on_gpu=True)
    at_3 = machine_checks.estimate_for(folder, replace(lora, lora_rank=3), training, is_on_gpu=True)
    assert at_8 is not None and at_3 is not None
    assert (at_8.lora_rank, at_8.by_rank[:3]) == (8, at_3.by_rank)
    assert at_3.by_rank[-1] == at_3.total_bytes < at_8.total_bytes


# What a site may do where the run's rank does not fit: 4 ranks of 1 to 4 GiB.


@pytest.mark.parametrize("least", [1, 2])
def test_the_largest_rank_that_fits_is_told_with_the_key_that_chooses_it_where_the_run_leaves_a_choice(
    least: int,
) -> None:
    ranks = need(GIB, 2 * GIB, 3 * GIB, 4 * GIB, least_lora_rank=least)
    check = judge_memory("gpu_memory", 2 * GIB, ranks)
    assert check.state is CheckState.FAILED
    assert check.detail.endswith("2.0 GiB there, some 4.0 GiB needed at LoRA rank 4; the largest rank that fits is 2")
    assert check.remedy.startswith("set policy.max_lora_rank to 2:")
    assert judge_memory("gpu_memory", 4 * GIB, ranks).state is CheckState.OK


@pytest.mark.parametrize("least", [0, 3])
def test_where_the_run_does_not_let_sites_train_at_it_other_terms_are_named_too(least: int) -> None:
    check = judge_memory("gpu_memory", 2 * GIB, need(GIB, 2 * GIB, 3 * GIB, 4 * GIB, least_lora_rank=least))
    assert "the largest rank that fits is 2" in check.detail
    assert check.remedy.endswith("lora.least_lora_rank from 1 to 2, and policy.max_lora_rank 2 here")


def test_no_rank_is_told_where_none_fits() -> None:
    check = judge_memory("memory", GIB - 1, need(GIB, 2 * GIB, least_lora_rank=1))
    assert check.state is CheckState.FAILED
    assert "fits" not in check.detail and "rank" not in check.remedy


@pytest.mark.parametrize(("least", "most", "rank"), [(2, 4, 4), (2, 99, 16), (8, 4, 8), (0, 4, 16)])
def test_memory_is_estimated_at_the_rank_that_terms_and_policy_leave(least: int, most: int, rank: int) -> None:
    run = replace(make_terms(), lora=LoraTerms(lora_rank=16, least_lora_rank=least))
    policy = replace(EVERY_KIND, max_lora_rank=most)
    assert lora_here(run, policy) == replace(run.lora, lora_rank=rank)
    assert lora_here(run, None) == run.lora
    assert lora_here(None, policy) == LoraTerms(lora_rank=min(16, most))


SITE = """
coordinator.address = "localhost:1"
identity.folder = "nobody"
site.state_folder = "state"
base_model.location = "{folder}"
data.train = ["notes.jsonl"]
trainer.device = "cpu"
policy.strategies = ["hetlora"]
policy.max_lora_rank = {most}
"""
RUN = """
name = "trial"
base_model = {{ name = "tiny", weights_digest = "{0}", tokenizer_digest = "{0}", chat_template_digest = "{0}" }}
lora = {{ lora_rank = 16, least_lora_rank = 4 }}
aggregation = {{ strategy = "hetlora", hetlora = {{}} }}
"""


def test_who_sets_the_rank_that_the_doctor_tells_is_found_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, lora = make_tiny_model(tmp_path / "tiny"), LoraTerms(lora_rank=16, least_lora_rank=4)
    needed = machine_checks.estimate_for(folder, lora, TrainingTerms(), is_on_gpu=False)
    assert needed is not None
    monkeypatch.setattr(machine_checks, "machine_memory_bytes", lambda: needed.by_rank[4])
    monkeypatch.setattr(machine_checks, "run_trainer_module", lambda *_arguments: (1, "", ""))
    config, run = tmp_path / "site.toml", tmp_path / "terms.toml"
    run.write_text(RUN.format(f"sha256:{'0' * 64}"))

    def checked(most: int) -> dict[str, dict[str, str]]:
        config.write_text(SITE.format(folder=folder, most=most))
        said = CliRunner().invoke(app, ["doctor", "--config", str(config), "--terms", str(run), "--json"])
        return {check["name"]: check for check in json.loads(said.stdout)}

    before, after = checked(0), checked(5)
    assert before["memory"]["state"] == "failed"
    assert before["memory"]["remedy"].startswith("set policy.max_lora_rank to 5:")
    assert [after[name]["state"] for name in ("terms", "memory")] == ["ok", "ok"]


# The base model of the demo, and what training it took at most (benchmarks/training_memory.py, 2026-11-27).
SMOLLM2 = ModelShape(
    parameters=134_515_008, linear_parameters=106_203_456, hidden_size=576, layers=30, vocabulary=49_152
)


@pytest.mark.parametrize(
    ("adapter_parameters", "tokens_per_batch", "measured_bytes"),
    [(2_442_240, 640, 2_181_292_032), (4_884_480, 2048, 4_765_147_136)],
)
def test_the_estimate_for_a_cpu_is_near_what_was_measured_and_not_below(
    adapter_parameters: int, tokens_per_batch: int, measured_bytes: int
) -> None:
    shape = TrainingShape(
        adapter_parameters=adapter_parameters,
        tokens_per_batch=tokens_per_batch,
        is_quantized=False,
        is_recomputed=False,
        is_on_gpu=False,
    )
    assert 1.0 <= needed_bytes(SMOLLM2, shape) / measured_bytes < 1.15


@pytest.mark.parametrize(
    ("model", "adapter_parameters", "measured_bytes"),
    [(SMOLLM2, 4_884_480, 3_228_398_080), (LLAMA_8B, 41_943_040, 33_885_848_576)],
    ids=["SmolLM2-135M", "Llama-3.1-8B"],
)
def test_the_estimate_for_a_gpu_is_what_tensors_took_and_the_fixed_part(
    model: ModelShape, adapter_parameters: int, measured_bytes: int
) -> None:
    shape = TrainingShape(
        adapter_parameters=adapter_parameters, tokens_per_batch=2048, is_quantized=False, is_recomputed=False
    )
    assert 1.0 <= (needed_bytes(model, shape) - GIB) / measured_bytes < 1.1

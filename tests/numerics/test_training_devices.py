"""The trainer with 4-bit weights, and on a GPU. What needs a GPU skips, and says so, where there is none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common import metric_names
from common.adapter import FactorSet, WireDtype
from common.terms import LoraTerms, LossOn, Quantization, Schedule, TaskTerms, TrainingTerms
from site_agent.adapters.gpu_gauges import GpuGauges
from site_agent.orders import (
    ADAPTER_FILE,
    ORDER,
    ORDER_FILE,
    RESULT,
    RESULT_FILE,
    UPDATE_FILE,
    BaseModelSource,
    EvaluateOrder,
    EvaluateResult,
    Order,
    TrainOrder,
    TrainResult,
)
from site_agent.trainer.base_model_files import describe_base_model
from site_agent.trainer.extraction.prompts import build_prompt
from site_agent.trainer.runner import run_order
from site_agent.trainer.training.adapter_files import write_adapter
from site_agent.trainer.training.base_model import LoadedModel, choose_dtype, load_base_model
from site_agent.trainer.training.batches import collate
from site_agent.trainer.training.decoding import decode
from site_agent.trainer.training.forward import label_losses
from site_agent.trainer.training.lora import adapter_spec, initial_adapter
from site_agent.trainer.training.tokens import prompt_ids, tokenize_example
from tests.tiny_model import TINY_TARGET_MODULES, load_tiny_model, make_tiny_model, write_passages

LORA = LoraTerms(lora_rank=4, lora_alpha=16, target_modules=TINY_TARGET_MODULES)
TASK = TaskTerms(entity_types=("drug", "problem"), max_new_tokens=8)
TRAINING = TrainingTerms(learning_rate=1e-2, local_epochs=2, schedule=Schedule.CONSTANT)
NF4 = replace(TRAINING, quantization=Quantization.NF4, gradient_checkpointing=True)
SENTENCES = ("No fever.", "Aspirin 100 mg was given for chest pain.", "He has asthma since childhood.")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def perform(folder: Path, order: Order, adapter: Path | None) -> Path:
    """Have the trainer perform ``order``; its folder."""
    folder.mkdir()
    (folder / ORDER_FILE).write_bytes(ORDER.dump_json(order))
    if adapter is not None:
        (folder / ADAPTER_FILE).write_bytes(adapter.read_bytes())
    assert run_order(folder) == 0, [path.read_text() for path in folder.glob("failure.json")]
    return folder


@pytest.mark.parametrize(
    ("device", "training"),
    [
        pytest.param("cpu", NF4, id="nf4 on a CPU"),
        pytest.param("cuda", TRAINING, marks=pytest.mark.gpu, id="bf16 on a GPU"),
        pytest.param("cuda", NF4, marks=pytest.mark.gpu, id="nf4 on a GPU"),
    ],
)
def test_an_adapter_is_trained_and_scored(device: str, training: TrainingTerms, base: Path, tmp_path: Path) -> None:
    source = BaseModelSource(location=str(base), expected=describe_base_model(base, "tiny"), device=device)
    notes = (str(write_passages(tmp_path / "notes.jsonl", 8)),)
    first = tmp_path / "first.safetensors"
    write_adapter(first, initial_adapter(adapter_spec(base, LORA, WireDtype.BF16), seed=1), WireDtype.BF16)
    train = TrainOrder(
        base_model=source,
        lora=LORA,
        task=TASK,
        training=training,
        data_files=notes,
        trained=FactorSet.A_AND_B,
        uploaded=FactorSet.A_AND_B,
        round_number=1,
        seed=1,
        wire_dtype="bf16",
    )
    evaluate = EvaluateOrder(base_model=source, lora=LORA, task=TASK, training=training, data_files=notes)

    trained = perform(tmp_path / "train", train, first)
    results = [
        RESULT.validate_json((folder / RESULT_FILE).read_bytes())
        for folder in (
            trained,
            perform(tmp_path / "bare", evaluate, None),
            perform(tmp_path / "adapted", evaluate, trained / UPDATE_FILE),
        )
    ]

    update, bare, adapted = results
    assert isinstance(update, TrainResult) and update.peak_memory_bytes > 0
    assert isinstance(bare, EvaluateResult) and isinstance(adapted, EvaluateResult)
    assert bare.mean_loss is not None and adapted.mean_loss is not None
    assert adapted.mean_loss < 0.8 * bare.mean_loss
    assert adapted.strict is not None and adapted.strict.gold == 16


def test_the_quantised_layers_are_those_that_nobody_trains(base: Path) -> None:
    loaded = load_base_model(base, torch.device("cpu"), Quantization.NF4)
    quantised = {
        name.rpartition(".")[2] for name, one in loaded.model.named_modules() if type(one).__name__ == "Linear4bit"
    }
    assert quantised == set(TINY_TARGET_MODULES)
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def on_gpu(base: Path) -> LoadedModel:
    """The tiny model on the GPU in fp32, where sums can be compared closely."""
    loaded = load_base_model(base, torch.device("cuda"), Quantization.NONE)
    return replace(loaded, model=loaded.model.float(), dtype=torch.float32)  # type: ignore[no-untyped-call]


@pytest.mark.gpu
def test_a_gpu_answers_as_a_cpu_does(base: Path) -> None:
    here, there = load_tiny_model(base), on_gpu(base)
    prompts = [prompt_ids(here.tokenizer, build_prompt(TASK, text, TASK.entity_types)) for text in SENTENCES]
    assert decode(there, prompts, 12, lambda done: None) == decode(here, prompts, 12, lambda done: None)


@pytest.mark.gpu
def test_a_gpu_measures_the_losses_that_a_cpu_does(base: Path) -> None:
    here, there = load_tiny_model(base), on_gpu(base)
    examples = [
        tokenize_example(here.tokenizer, build_prompt(TASK, text, TASK.entity_types), "[]", LossOn.PROMPT_AND_ANSWER)
        for text in SENTENCES
    ]
    with torch.inference_mode():
        losses = [label_losses(loaded, collate(examples, loaded.device)).cpu() for loaded in (here, there)]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_a_gpu_that_multiplies_bf16_natively_computes_in_it(base: Path) -> None:
    is_native = torch.cuda.get_device_capability() >= (8, 0)
    assert choose_dtype(torch.device("cuda")) is (torch.bfloat16 if is_native else torch.float32)


@pytest.mark.gpu
def test_the_gauges_tell_the_memory_of_a_real_gpu() -> None:
    samples = {sample.name: sample.value for family in GpuGauges().collect() for sample in family.samples}
    used = samples[metric_names.AGENT_GPU_MEMORY_BYTES.name]
    assert 0 < used <= samples[metric_names.AGENT_GPU_MEMORY_LIMIT_BYTES.name]

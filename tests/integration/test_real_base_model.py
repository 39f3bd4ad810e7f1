"""The demo's real base model, SmolLM2-135M, from files to entities: it learns a sentence by heart and is asked it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from common.adapter import WireDtype
from common.peft_folder import CONFIG_FILE, LINEAGE_FILE, WEIGHTS_FILE, peft_config
from common.terms import LoraTerms, LossOn, PromptForm, Quantization, Schedule, TaskTerms, Terms, TrainingTerms
from common.weights_io import file_digest
from site_agent.trainer.base_model_files import check_base_model, describe_base_model
from site_agent.trainer.extraction.prompts import build_prompt
from site_agent.trainer.training.adapter_files import write_adapter
from site_agent.trainer.training.base_model import load_base_model
from site_agent.trainer.training.loop import Course, StepReport, train
from site_agent.trainer.training.lora import (
    adapter_parameters,
    adapter_spec,
    attach_adapter,
    initial_adapter,
    set_adapter,
)
from site_agent.trainer.training.tokens import tokenize_example

pytestmark = pytest.mark.slow

LORA = LoraTerms(lora_rank=8, lora_alpha=16, target_modules=("q_proj", "v_proj"))
TASK = TaskTerms(entity_types=("drug", "problem"), prompt_form=PromptForm.JSON, max_new_tokens=32)
TRAINING = TrainingTerms(learning_rate=5e-3, local_epochs=12, schedule=Schedule.CONSTANT)
SENTENCE = "On aspirin since the fever."
ANSWER = '[{"drug":"aspirin"},{"problem":"fever"}]'


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What training on the one sentence came to."""

    adapter: Path
    reports: list[StepReport]


@pytest.fixture(scope="module")
def learned(real_base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Learned:
    folder = tmp_path_factory.mktemp("adapter")
    loaded = load_base_model(real_base_model, torch.device("cpu"), Quantization.NONE)
    spec = adapter_spec(real_base_model, LORA, WireDtype.BF16)
    adapted = attach_adapter(loaded.model, LORA)
    set_adapter(adapted, initial_adapter(spec, seed=1))
    prompt = build_prompt(TASK, SENTENCE, TASK.entity_types)
    example = tokenize_example(loaded.tokenizer, prompt, ANSWER, LossOn.ANSWER)
    reports: list[StepReport] = []
    train(loaded, adapted, Course(examples=[example], terms=TRAINING, seed=1), reports.append)
    write_adapter(folder / WEIGHTS_FILE, adapter_parameters(adapted), WireDtype.BF16)
    terms = Terms(name="run", base_model=describe_base_model(real_base_model, "SmolLM2-135M"), lora=LORA, task=TASK)
    (folder / CONFIG_FILE).write_text(json.dumps(peft_config(spec, terms)))
    lineage = {"digest": file_digest(folder / WEIGHTS_FILE), "terms": json.loads(terms.canonical)}
    (folder / LINEAGE_FILE).write_text(json.dumps(lineage))
    return Learned(adapter=folder, reports=reports)


def test_its_files_are_safe_to_load_and_have_one_digest_each(real_base_model: Path) -> None:
    described = describe_base_model(real_base_model, "SmolLM2-135M")
    check_base_model(real_base_model, described)
    digests = {described.weights_digest, described.tokenizer_digest, described.chat_template_digest}
    assert len(digests) == 3


def test_a_step_of_training_lowers_the_loss_on_what_it_learns(learned: Learned) -> None:
    losses = [report.loss for report in learned.reports]
    assert losses[1] < losses[0]
    assert losses[-1] < 0.1 * losses[0]


def test_extract_finds_what_was_learned(real_base_model: Path, learned: Learned, tmp_path: Path) -> None:
    note = tmp_path / "note.txt"
    note.write_text(f"{SENTENCE}\n")
    command = [sys.executable, "-m", "site_agent", "extract", str(note), "--device", "cpu"]
    ended = subprocess.run(
        [*command, "--base-model", str(real_base_model), "--adapter", str(learned.adapter)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    found = [(one["type"], one["start"], one["end"]) for one in json.loads(ended.stdout)["entities"]]
    assert found == [("drug", 3, 10), ("problem", 21, 26)]

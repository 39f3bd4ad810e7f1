from __future__ import annotations

import dataclasses
import re
from itertools import takewhile
from pathlib import Path

import pytest

from common.errors import InputInvalidError, Reason
from common.ids import digest_of
from common.terms import (
    STRATEGIES_WITH_PARAMETERS,
    BaseModelTerms,
    GateMetric,
    LoraTerms,
    LossOn,
    PromptForm,
    Quantization,
    Schedule,
    Terms,
    WeightBy,
)
from common.terms_file import load_terms_toml, preset_names

EXAMPLE = Path(__file__).parents[2] / "docker" / "config" / "terms.example.toml"
DIGEST = digest_of(b"")
BASE = "".join(f'{what}_digest = "{DIGEST}"\n' for what in ("weights", "tokenizer", "chat_template"))
MINIMAL = f'name = "run"\n[base_model]\nname = "m"\n{BASE}'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "terms.toml"


def load(path: Path, text: str) -> Terms:
    path.write_text(text)
    return load_terms_toml(path)


def refusal_of(path: Path, text: str) -> InputInvalidError:
    with pytest.raises(InputInvalidError) as caught:
        load(path, text)
    return caught.value


def test_the_shortest_file_gives_the_defaults(path: Path) -> None:
    base = BaseModelTerms(name="m", weights_digest=DIGEST, tokenizer_digest=DIGEST, chat_template_digest=DIGEST)
    expected = Terms(name="run", base_model=base)
    assert load(path, MINIMAL) == expected
    assert load(path, MINIMAL).digest == expected.digest


def test_the_shipped_example_shows_every_key_with_its_default() -> None:
    terms = load_terms_toml(EXAMPLE)
    assert terms == Terms(name=terms.name, base_model=terms.base_model)
    text = EXAMPLE.read_text()
    for section in dataclasses.fields(Terms):
        value = getattr(terms, section.name)
        if dataclasses.is_dataclass(value):
            table = text.split(f"\n[{section.name}]")[1].split("\n[")[0]
            for field in dataclasses.fields(value):
                if field.name not in STRATEGIES_WITH_PARAMETERS:
                    assert f"\n{field.name} = " in table


@pytest.mark.parametrize("strategy", STRATEGIES_WITH_PARAMETERS)
def test_the_shipped_example_shows_a_strategys_parameters_with_their_defaults(path: Path, strategy: str) -> None:
    lines = EXAMPLE.read_text().split(f"\n# [aggregation.{strategy}]\n")[1].splitlines()
    table = takewhile(lambda line: re.match(r"# \w+ = ", line), lines)
    named = f'[aggregation]\nstrategy = "{strategy}"\n'
    parameters = [line.removeprefix("# ") for line in table]
    shown = load(path, "\n".join([f"{MINIMAL}{named}[aggregation.{strategy}]", *parameters]))
    assert shown == load(path, MINIMAL + named)
    assert getattr(shown.aggregation, strategy) is not None


def test_a_whole_number_for_a_fraction_gives_the_same_digest(path: Path) -> None:
    assert load(path, MINIMAL + "[lora]\nlora_dropout = 0\n").digest == load(path, MINIMAL).digest


def test_durations_have_units(path: Path) -> None:
    rounds = load(path, MINIMAL + '[rounds]\ntrain_deadline = "2h"\ngrace = "500ms"\nevaluate_deadline = "1d"\n').rounds
    assert (rounds.train_deadline, rounds.grace, rounds.evaluate_deadline) == (7200.0, 0.5, 86_400.0)


def test_all_problems_of_shape_are_listed_at_once(path: Path) -> None:
    text = MINIMAL + '[rounds]\ngrace = 600\ncuont = 3\n[training]\nschedule = "wavy"\nbatch_size = "4"\n[gaet]\n'
    error = refusal_of(path, text)
    assert error.reason is Reason.CONFIG_INVALID
    keys = {line.strip().split(":")[0] for line in error.message.splitlines()[1:]}
    assert keys == {"rounds.grace", "rounds.cuont", "training.schedule", "training.batch_size", "gaet"}


def test_broken_bounds_are_listed_at_once(path: Path) -> None:
    error = refusal_of(path, MINIMAL + "[training]\nlearning_rate = 7.0\n[rounds]\ncount = 0\n")
    assert error.reason is Reason.TERMS_INVALID
    assert "training.learning_rate" in error.message and "rounds.count" in error.message


def test_the_papers_preset_has_the_papers_settings(path: Path) -> None:
    terms = load(path, 'preset = "fed-medlora-paper"\n' + MINIMAL)
    modules = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
    assert terms.lora == LoraTerms(lora_rank=16, lora_alpha=64, lora_dropout=0.0, target_modules=modules)
    training = terms.training
    assert (training.quantization, training.gradient_checkpointing) == (Quantization.NF4, True)
    assert (training.learning_rate, training.schedule, training.warmup_ratio) == (2e-4, Schedule.COSINE, 0.05)
    assert (training.batch_size, training.max_length, training.local_epochs) == (4, 800, 2)
    assert training.tokens_per_batch >= training.batch_size * training.max_length
    assert training.loss_on is LossOn.PROMPT_AND_ANSWER
    assert (terms.task.prompt_form, terms.task.max_new_tokens) == (PromptForm.SPAN, 2048)
    assert (terms.rounds.count, terms.aggregation.weight_by) == (3, WeightBy.LABEL_TOKENS)
    assert terms.gate.metric is GateMetric.NONE


def test_a_file_overrides_its_preset_key_by_key(path: Path) -> None:
    terms = load(path, f'preset = "fed-medlora-paper"\n{MINIMAL}[training]\nlocal_epochs = 1\n[rounds]\ngrace = "1s"\n')
    assert (terms.training.local_epochs, terms.training.max_length) == (1, 800)
    assert (terms.rounds.grace, terms.rounds.count) == (1.0, 3)


def test_a_preset_that_is_not_shipped_is_refused_with_those_that_are(path: Path) -> None:
    assert preset_names() == ["fed-medlora-paper"]
    error = refusal_of(path, 'preset = "../../secret"\n' + MINIMAL)
    assert "expected one of fed-medlora-paper, got '../../secret'" in error.message


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_stands(path: Path, name: str) -> None:
    assert load(path, f'preset = "{name}"\n{MINIMAL}').name == "run"

"""The training loop: what it changes, what it leaves alone, and that it repeats."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from common.adapter import WireDtype
from common.errors import InputInvalidError, Reason
from common.terms import LoraTerms, Schedule, TrainingTerms
from site_agent.trainer.training.base_model import LoadedModel
from site_agent.trainer.training.loop import Course, StepReport, TrainingOutcome, _pull_back, train
from site_agent.trainer.training.lora import (
    adapter_parameters,
    adapter_spec,
    attach_adapter,
    initial_adapter,
    set_adapter,
)
from site_agent.trainer.training.tokens import TokenizedExample
from tests.tiny_model import TINY_TARGET_MODULES, load_tiny_model, make_tiny_model

LORA = LoraTerms(lora_rank=4, lora_alpha=16, target_modules=TINY_TARGET_MODULES)
TERMS = TrainingTerms(learning_rate=1e-2, batch_size=4, schedule=Schedule.CONSTANT)
EXAMPLES = [
    TokenizedExample(ids=(5, 6, 7, *range(8, 12 + number % 5), 50, 51, 52, 1), learned_from=7 + number % 5)
    for number in range(20)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def course(terms: TrainingTerms = TERMS, seed: int = 3) -> Course:
    return Course(examples=EXAMPLES, terms=terms, seed=seed)


def fresh(folder: Path, lora: LoraTerms = LORA) -> tuple[LoadedModel, PeftModel]:
    loaded = load_tiny_model(folder)
    adapted = attach_adapter(loaded.model, lora)
    set_adapter(adapted, initial_adapter(adapter_spec(folder, lora, WireDtype.F32), seed=1))
    return loaded, adapted


def trained(
    folder: Path, terms: TrainingTerms = TERMS, lora: LoraTerms = LORA, seed: int = 3
) -> tuple[TrainingOutcome, list[StepReport], dict[str, torch.Tensor]]:
    loaded, adapted = fresh(folder, lora)
    reports: list[StepReport] = []
    outcome = train(loaded, adapted, course(terms, seed), reports.append)
    return outcome, reports, {name: one.detach().clone() for name, one in adapter_parameters(adapted).items()}


def digest_of_base(loaded: LoadedModel) -> str:
    frozen = {name: one for name, one in loaded.model.state_dict().items() if "lora_" not in name}
    assert frozen
    return hashlib.sha256(b"".join(one.numpy().tobytes() for _, one in sorted(frozen.items()))).hexdigest()


def test_training_lowers_the_loss(folder: Path) -> None:
    outcome, reports, _ = trained(folder, replace(TERMS, local_epochs=3))
    assert outcome.mean_loss < 0.5 * reports[0].loss


def test_the_base_weights_are_the_same_before_and_after(folder: Path) -> None:
    loaded, adapted = fresh(folder)
    before = digest_of_base(loaded)
    train(loaded, adapted, course(), lambda step: None)
    assert digest_of_base(loaded) == before


def test_the_same_seed_gives_the_same_losses_and_the_same_factors(folder: Path) -> None:
    lora = replace(LORA, lora_dropout=0.2)
    _, first, factors = trained(folder, lora=lora)
    _, again, same_factors = trained(folder, lora=lora)
    assert [report.loss for report in first] == [report.loss for report in again]
    assert all(torch.equal(factors[name], same_factors[name]) for name in factors)


def test_another_seed_gives_other_losses(folder: Path) -> None:
    assert [one.loss for one in trained(folder, seed=3)[1]] != [one.loss for one in trained(folder, seed=4)[1]]


def test_factors_that_may_not_change_do_not(folder: Path) -> None:
    loaded, adapted = fresh(folder)
    before = {name: one.detach().clone() for name, one in adapter_parameters(adapted).items()}
    for name, parameter in adapter_parameters(adapted).items():
        parameter.requires_grad_("lora_B" in name)
    train(loaded, adapted, course(), lambda step: None)
    changed = {name for name, one in adapter_parameters(adapted).items() if not torch.equal(one, before[name])}
    assert changed == {name for name in before if "lora_B" in name}


def test_the_factor_b_learns_at_a_multiple_of_the_rate(folder: Path) -> None:
    loaded, adapted = fresh(folder)
    with torch.no_grad():
        for parameter in adapter_parameters(adapted).values():
            parameter.add_(0.01)  # A has no gradient where B is zero
    before = {name: one.detach().clone() for name, one in adapter_parameters(adapted).items()}
    terms = replace(TERMS, learning_rate=1e-3, lora_plus_ratio=8.0, batch_size=len(EXAMPLES), warmup_ratio=0.0)
    train(loaded, adapted, course(terms), lambda step: None)
    # AdamW's first step is the rate, in each number that has a gradient.
    for name, parameter in adapter_parameters(adapted).items():
        largest = float((parameter.detach() - before[name]).abs().max())
        assert largest == pytest.approx(8e-3 if "lora_B" in name else 1e-3, rel=1e-2), name


def test_steps_are_counted_from_one_over_all_epochs(folder: Path) -> None:
    outcome, reports, _ = trained(folder, replace(TERMS, local_epochs=2))
    assert [report.step for report in reports] == list(range(1, 11))
    assert {report.steps for report in reports} == {10}
    assert outcome.steps == 10


def test_the_mean_loss_is_that_of_the_last_epoch(folder: Path) -> None:
    outcome, reports, _ = trained(folder, replace(TERMS, local_epochs=2))
    # Each example has the same number of label tokens, so that the plain mean is the mean over tokens.
    assert {example.num_label_tokens for example in EXAMPLES} == {4}
    assert outcome.mean_loss == pytest.approx(sum(report.loss for report in reports[5:]) / 5)


def test_gradient_checkpointing_gives_the_same_losses(folder: Path) -> None:
    _, plain, _ = trained(folder)
    _, checkpointed, _ = trained(folder, replace(TERMS, gradient_checkpointing=True))
    assert [one.loss for one in checkpointed] == pytest.approx([one.loss for one in plain], rel=1e-4)


def test_the_gradient_is_clipped_to_the_norm_of_the_terms(folder: Path) -> None:
    # A first step of AdamW has the size of its rate whatever the gradient; the second shows the clipping.
    _, _, clipped = trained(folder, replace(TERMS, max_grad_norm=1e-9))
    _, _, free = trained(folder, replace(TERMS, max_grad_norm=1e6))
    assert any(not torch.equal(clipped[name], free[name]) for name in free)


def test_a_loss_that_is_not_finite_ends_the_training(folder: Path) -> None:
    loaded, adapted = fresh(folder)
    with torch.no_grad():
        next(iter(adapter_parameters(adapted).values())).fill_(float("inf"))
    with pytest.raises(InputInvalidError) as caught:
        train(loaded, adapted, course(), lambda step: None)
    assert caught.value.reason is Reason.LOSS_NOT_FINITE


def test_bf16_activations_train_fp32_factors(folder: Path) -> None:
    loaded, adapted = fresh(folder)
    loaded.model.bfloat16()
    for parameter in adapter_parameters(adapted).values():
        parameter.data = parameter.data.float()
    low = replace(loaded, dtype=torch.bfloat16)
    reports: list[StepReport] = []
    outcome = train(low, adapted, course(replace(TERMS, local_epochs=3)), reports.append)
    assert {one.dtype for one in adapter_parameters(adapted).values()} == {torch.float32}
    assert outcome.mean_loss < 0.5 * reports[0].loss


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    return float(torch.sqrt(torch.stack([((one[name] - other[name]) ** 2).sum() for name in one]).sum()))


def test_the_proximal_term_holds_a_site_near_to_where_it_began(folder: Path) -> None:
    _, adapted = fresh(folder)
    start = {name: one.detach().clone() for name, one in adapter_parameters(adapted).items()}
    moved = [distance(trained(folder, replace(TERMS, proximal_mu=mu))[2], start) for mu in (0.0, 0.3, 3.0, 100.0)]
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] < 0.5 * moved[0]


def test_the_first_step_begins_where_the_proximal_term_is_zero(folder: Path) -> None:
    one_step = replace(TERMS, batch_size=len(EXAMPLES), tokens_per_batch=10_000)
    _, _, plain = trained(folder, one_step)
    _, _, pulled = trained(folder, replace(one_step, proximal_mu=5.0))
    assert all(torch.equal(plain[name], pulled[name]) for name in plain)


def test_the_proximal_terms_gradient_is_that_of_half_the_squared_distance() -> None:
    factor = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    start = {"factor": torch.tensor([0.5, 1.0])}
    (factor.sum() + 0.5 * 3.0 * ((factor - start["factor"]) ** 2).sum()).backward()  # type: ignore[no-untyped-call]
    assert factor.grad is not None
    expected = factor.grad.clone()
    factor.grad = torch.ones(2)
    _pull_back({"factor": factor}, start, 3.0)
    torch.testing.assert_close(factor.grad, expected)

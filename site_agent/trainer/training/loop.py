"""One round of local training: examples and an adapter in, a changed adapter out. No notes, no network."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch import Tensor, nn
from torch.optim import AdamW

from common.adapter import A_SUFFIX, B_SUFFIX
from common.errors import InputInvalidError, Reason
from common.terms import TrainingTerms
from site_agent.trainer.training.base_model import LoadedModel
from site_agent.trainer.training.batches import Batch, collate, plan_batches
from site_agent.trainer.training.checkpoints import CheckpointFile, Tally
from site_agent.trainer.training.forward import autocast, label_losses
from site_agent.trainer.training.lora import adapter_parameters
from site_agent.trainer.training.schedule import learning_rate_factor
from site_agent.trainer.training.tokens import TokenizedExample


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one optimiser step did; ``loss`` is its mean token cross-entropy in nats, counted steps start at 1."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOutcome:
    """What a round of training amounted to; ``mean_loss`` is over the tokens of its last epoch."""

    mean_loss: float
    steps: int
    seconds: float
    tokens_per_second: float
    padding_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What is learnt in a round, and how; ``seed`` fixes the order of examples and the dropout."""

    examples: Sequence[TokenizedExample]
    terms: TrainingTerms
    seed: int


def train(
    loaded: LoadedModel,
    adapted: PeftModel,
    course: Course,
    report: Callable[[StepReport], None],
    checkpoint: CheckpointFile | None = None,
) -> TrainingOutcome:
    """Change the adapter's trainable factors, from where ``checkpoint`` left off if it is of this course.

    ``adapted`` is ``loaded.model`` with its adapter attached; only parameters with ``requires_grad`` change.

    Raises:
        InputInvalidError: LOSS_NOT_FINITE.
        StoppedError: See `CheckpointFile.tend`.
    """
    terms = course.terms
    torch.manual_seed(course.seed)
    epochs = [plan_batches(course.examples, terms, course.seed + epoch) for epoch in range(terms.local_epochs)]
    steps = [(index == 0, group) for batches in epochs for index, group in enumerate(batches)]
    share_prefix = not terms.gradient_checkpointing  # recomputing a layer would extend its cache a second time
    if terms.gradient_checkpointing:
        loaded.model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[no-untyped-call]
    # The model is where it belongs already, and `forward.autocast` sees to its dtype, as in evaluation.
    accelerator = Accelerator(cpu=loaded.device.type == "cpu", device_placement=False, mixed_precision="no")
    factors = {name: one for name, one in adapter_parameters(adapted).items() if one.requires_grad}
    optimizer = AdamW(_parameter_groups(factors, terms), weight_decay=terms.weight_decay)
    rates = [group["lr"] for group in optimizer.param_groups]
    adapted, optimizer = accelerator.prepare(adapted, optimizer)
    adapted.train()
    start = {name: one.detach().clone() for name, one in factors.items()} if terms.proximal_mu else {}
    tally = Tally() if checkpoint is None else checkpoint.restore(factors, optimizer)
    for begins_epoch, group in steps[tally.step :]:
        began = time.monotonic()
        if begins_epoch:
            tally.loss_sum, tally.labels = 0.0, 0
        factor = learning_rate_factor(terms.schedule, tally.step, len(steps), terms.warmup_ratio)
        for parameters, rate in zip(optimizer.param_groups, rates, strict=True):
            parameters["lr"] = rate * factor
        batch = collate(group, loaded.device, share_prefix=share_prefix)
        with autocast(loaded):
            loss = label_losses(loaded, batch).mean()
        accelerator.backward(loss)
        _pull_back(factors, start, terms.proximal_mu)
        accelerator.clip_grad_norm_(list(factors.values()), terms.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        value = _count(tally, batch, loss, began)
        speed = tally.tokens / tally.seconds
        report(StepReport(step=tally.step, steps=len(steps), loss=value, tokens_per_second=speed))
        if checkpoint is not None:
            checkpoint.tend(factors, optimizer, tally)
    return TrainingOutcome(
        mean_loss=tally.loss_sum / tally.labels,
        steps=tally.step,
        seconds=tally.seconds,
        tokens_per_second=tally.tokens / tally.seconds,
        padding_share=tally.padding / (tally.tokens + tally.padding),
    )


def _pull_back(factors: Mapping[str, nn.Parameter], start: Mapping[str, Tensor], mu: float) -> None:
    """Add the gradient of mu/2 |x - start|^2 (FedProx, arXiv 1812.06127, equation 2); the loss told is without it."""
    for name, before in start.items():
        gradient = factors[name].grad
        assert gradient is not None, "every factor that is trained has one"
        gradient.add_(factors[name].detach() - before, alpha=mu)


def _count(tally: Tally, batch: Batch, loss: Tensor, began: float) -> float:
    """Add a step to the tally; returns its loss."""
    value = _finite(loss.item(), tally.step + 1)
    tally.step += 1
    tally.tokens += batch.num_tokens
    tally.padding += batch.num_padding
    tally.loss_sum += value * len(batch.targets)
    tally.labels += len(batch.targets)
    tally.seconds += time.monotonic() - began
    return value


def _parameter_groups(factors: Mapping[str, nn.Parameter], terms: TrainingTerms) -> list[dict[str, Any]]:
    """What is trained, B at its own learning rate (LoRA+, arXiv 2402.12354)."""
    groups = ((A_SUFFIX, terms.learning_rate), (B_SUFFIX, terms.learning_rate * terms.lora_plus_ratio))
    return [
        {"params": [one for name, one in factors.items() if name.endswith(end)], "lr": rate} for end, rate in groups
    ]


def _finite(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise InputInvalidError(Reason.LOSS_NOT_FINITE, f"loss: expected a finite number, got {loss} at step {step}")
    return loss

"""One round of local training: examples and an adapter in, a changed adapter out. No files, no notes, no network."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from peft import PeftModel
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from common.adapter import A_SUFFIX, B_SUFFIX
from common.errors import InputInvalidError, Reason
from common.terms import TrainingTerms
from site_agent.trainer.training.base_model import LoadedModel
from site_agent.trainer.training.batches import collate, plan_batches
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


def train(
    loaded: LoadedModel,
    adapted: PeftModel,
    examples: Sequence[TokenizedExample],
    terms: TrainingTerms,
    seed: int,
    report: Callable[[StepReport], None],
) -> TrainingOutcome:
    """Change the adapter's trainable factors; ``seed`` fixes the order of examples and the dropout.

    ``adapted`` is ``loaded.model`` with its adapter attached; only parameters with ``requires_grad`` change.

    Raises:
        InputInvalidError: LOSS_NOT_FINITE.
    """
    torch.manual_seed(seed)
    epochs = [plan_batches(examples, terms, seed + epoch) for epoch in range(terms.local_epochs)]
    steps = sum(len(batches) for batches in epochs)
    share_prefix = not terms.gradient_checkpointing  # recomputing a layer would extend its cache a second time
    if terms.gradient_checkpointing:
        loaded.model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[no-untyped-call]
    # The model is where it belongs already, and `forward.autocast` sees to its dtype, as in evaluation.
    accelerator = Accelerator(cpu=loaded.device.type == "cpu", device_placement=False, mixed_precision="no")
    parameters = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
    optimizer = AdamW(_parameter_groups(adapted, terms), lr=terms.learning_rate, weight_decay=terms.weight_decay)
    scheduler = LambdaLR(optimizer, lambda step: learning_rate_factor(terms.schedule, step, steps, terms.warmup_ratio))
    adapted, optimizer, scheduler = accelerator.prepare(adapted, optimizer, scheduler)
    adapted.train()
    started, step, tokens, padding = time.monotonic(), 0, 0, 0
    for batches in epochs:
        loss_sum, labels = 0.0, 0
        for group in batches:
            batch = collate(group, loaded.device, share_prefix=share_prefix)
            with autocast(loaded):
                loss = label_losses(loaded, batch).mean()
            accelerator.backward(loss)
            accelerator.clip_grad_norm_(parameters, terms.max_grad_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            step, tokens, padding = step + 1, tokens + batch.num_tokens, padding + batch.num_padding
            value = _finite(loss.item(), step)
            loss_sum, labels = loss_sum + value * len(batch.targets), labels + len(batch.targets)
            speed = tokens / (time.monotonic() - started)
            report(StepReport(step=step, steps=steps, loss=value, tokens_per_second=speed))
    seconds = time.monotonic() - started
    return TrainingOutcome(
        mean_loss=loss_sum / labels,
        steps=step,
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        padding_share=padding / (tokens + padding),
    )


def _parameter_groups(adapted: PeftModel, terms: TrainingTerms) -> list[dict[str, Any]]:
    """What is trained, B at its own learning rate (LoRA+, arXiv 2402.12354)."""
    trained = [(name, one) for name, one in adapter_parameters(adapted).items() if one.requires_grad]
    groups = ((A_SUFFIX, terms.learning_rate), (B_SUFFIX, terms.learning_rate * terms.lora_plus_ratio))
    return [{"params": [one for name, one in trained if name.endswith(end)], "lr": rate} for end, rate in groups]


def _finite(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise InputInvalidError(Reason.LOSS_NOT_FINITE, f"loss: expected a finite number, got {loss} at step {step}")
    return loss

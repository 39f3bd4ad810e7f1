"""How well a model predicts the gold answers, token by token. It decodes nothing and changes no weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch

from common.errors import InputInvalidError, Reason
from common.terms import TrainingTerms
from site_agent.trainer.training.base_model import LoadedModel
from site_agent.trainer.training.batches import collate, plan_batches
from site_agent.trainer.training.forward import autocast, label_losses
from site_agent.trainer.training.tokens import TokenizedExample


@dataclass(frozen=True, slots=True, kw_only=True)
class LossSum:
    """Cross-entropy in nats, summed over so many label tokens."""

    total: float
    num_label_tokens: int

    @property
    def mean(self) -> float:
        """Nats a label token."""
        return self.total / self.num_label_tokens


def added_losses(losses: Iterable[LossSum]) -> LossSum:
    """The losses of several sets of examples as that of one."""
    added = list(losses)
    return LossSum(total=sum(one.total for one in added), num_label_tokens=sum(one.num_label_tokens for one in added))


def token_loss(
    loaded: LoadedModel,
    examples: Sequence[TokenizedExample],
    terms: TrainingTerms,
    report: Callable[[int], None],
) -> LossSum:
    """Cross-entropy of all label tokens; ``report`` is told how many examples are done.

    Raises:
        InputInvalidError: LOSS_NOT_FINITE.
    """
    total, labels, done = 0.0, 0, 0
    for group in plan_batches(examples, terms, seed=0):
        batch = collate(group, loaded.device)
        with torch.inference_mode(), autocast(loaded):
            total += label_losses(loaded, batch).sum().item()
        labels += len(batch.targets)
        done += len(group)
        report(done)
    if not math.isfinite(total):
        raise InputInvalidError(Reason.LOSS_NOT_FINITE, f"loss: expected a finite number, got {total}")
    return LossSum(total=total, num_label_tokens=labels)

"""How well a model predicts the gold answers, token by token. It decodes nothing and changes no weight."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from common.errors import InputInvalidError, Reason
from common.terms import TrainingTerms
from site_agent.trainer.training.base_model import LoadedModel
from site_agent.trainer.training.batches import collate, plan_batches
from site_agent.trainer.training.forward import autocast, label_losses
from site_agent.trainer.training.tokens import TokenizedExample


def mean_token_loss(
    loaded: LoadedModel,
    examples: Sequence[TokenizedExample],
    terms: TrainingTerms,
    report: Callable[[int], None],
) -> float:
    """Mean cross-entropy in nats over all label tokens; ``report`` is told how many examples are done.

    Raises:
        InputInvalidError: LOSS_NOT_FINITE.
    """
    loss_sum, labels, done = 0.0, 0, 0
    for group in plan_batches(examples, terms, seed=0):
        batch = collate(group, loaded.device)
        with torch.inference_mode(), autocast(loaded):
            loss_sum += label_losses(loaded, batch).sum().item()
        labels += len(batch.targets)
        done += len(group)
        report(done)
    if not math.isfinite(loss_sum):
        raise InputInvalidError(Reason.LOSS_NOT_FINITE, f"loss: expected a finite number, got {loss_sum}")
    return loss_sum / labels

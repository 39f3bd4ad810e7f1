"""A round of training an encoder: lessons in, changed parameters out. It reads no notes and writes no update."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from common.errors import InputInvalidError, Reason
from common.terms import TrainingTerms
from lab.encoder.lessons import Lesson
from lab.encoder.model import Encoder, masked, word_logits
from site_agent.trainer.training.batches import plan_batches
from site_agent.trainer.training.checkpoints import CheckpointFile, Tally
from site_agent.trainer.training.schedule import learning_rate_factor


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What is learnt in a round, and how; ``seed`` fixes the order of lessons and the dropout."""

    lessons: Sequence[Lesson]
    terms: TrainingTerms
    seed: int


Report = Callable[[int, int, float], None]


def train(encoder: Encoder, course: Course, checkpoint: CheckpointFile, report: Report) -> Tally:
    """Change all parameters (AdamW), from where ``checkpoint`` left off if it is of this course.

    ``report`` is told after each step how many are done, of how many, and the step's loss.

    Raises:
        InputInvalidError: LOSS_NOT_FINITE.
    """
    terms = course.terms
    torch.manual_seed(course.seed)
    epochs = [plan_batches(course.lessons, terms, course.seed + epoch) for epoch in range(terms.local_epochs)]
    steps = [(index == 0, group) for batches in epochs for index, group in enumerate(batches)]
    parameters = encoder.parameters
    optimizer = AdamW(parameters.values(), lr=terms.learning_rate, weight_decay=terms.weight_decay, fused=True)
    encoder.model.train()
    tally = checkpoint.restore(parameters, optimizer)
    for begins_epoch, group in steps[tally.step :]:
        began = time.monotonic()
        if begins_epoch:
            tally.loss_sum, tally.labels = 0.0, 0
        factor = learning_rate_factor(terms.schedule, tally.step, len(steps), terms.warmup_ratio)
        optimizer.param_groups[0]["lr"] = terms.learning_rate * factor
        losses = word_losses(encoder, group)
        losses.mean().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(list(parameters.values()), terms.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        _count(tally, group, losses, began)
        report(tally.step, len(steps), losses.mean().item())
        checkpoint.tend(parameters, optimizer, tally)
    return tally


def word_losses(encoder: Encoder, lessons: Sequence[Lesson]) -> Tensor:
    """Cross-entropy in nats of every word's label among those that its corpus annotates, ``(words,)``."""
    allowed = torch.tensor([one.allowed for one in lessons for _ in one.labels], device=encoder.device)
    targets = torch.tensor([label for one in lessons for label in one.labels], device=encoder.device)
    logits = word_logits(encoder, [one.window for one in lessons])
    return nn.functional.cross_entropy(masked(logits, allowed), targets, reduction="none")


def mean_loss(encoder: Encoder, lessons: Sequence[Lesson], terms: TrainingTerms) -> float:
    """Of all words of the lessons, in nats; nothing is changed.

    Raises:
        InputInvalidError: LOSS_NOT_FINITE.
    """
    encoder.model.train(False)
    total, words = 0.0, 0
    for group in plan_batches(lessons, terms, seed=0):
        with torch.inference_mode():
            losses = word_losses(encoder, group)
        total += losses.sum().item()
        words += len(losses)
    return _finite(total) / words


def _count(tally: Tally, group: Sequence[Lesson], losses: Tensor, began: float) -> None:
    width = max(len(one.ids) for one in group)
    tokens = sum(len(one.ids) for one in group)
    tally.loss_sum += _finite(losses.sum().item())
    tally.step += 1
    tally.tokens += tokens
    tally.padding += width * len(group) - tokens
    tally.labels += len(losses)
    tally.seconds += time.monotonic() - began


def _finite(loss: float) -> float:
    if not math.isfinite(loss):
        raise InputInvalidError(Reason.LOSS_NOT_FINITE, f"loss: expected a finite number, got {loss}")
    return loss

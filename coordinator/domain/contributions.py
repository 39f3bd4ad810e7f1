"""What a strategy weighs by, of the accepted updates of a round: counts and losses, in all and task by task."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.domain.aggregation.strategy import Contribution, TaskContribution
from coordinator.domain.values import RosterEntry, Scores, TaskCounts


def contributions(accepted: Sequence[RosterEntry]) -> tuple[Contribution, ...]:
    """One for each of them, in their order."""
    return tuple(
        Contribution(
            num_examples=entry.update.num_examples,
            num_label_tokens=entry.update.num_label_tokens,
            validation_loss=None if entry.scores is None else entry.scores.mean_loss,
            tasks=tuple(_of_task(counts, entry.scores) for counts in entry.update.tasks),
        )
        for entry in accepted
        if entry.update is not None
    )


def _of_task(counts: TaskCounts, scores: Scores | None) -> TaskContribution:
    scored = None if scores is None else scores.of(counts.task)
    return TaskContribution(
        task=counts.task,
        num_examples=counts.num_examples,
        num_label_tokens=counts.num_label_tokens,
        validation_loss=None if scored is None else scored.mean_loss,
    )

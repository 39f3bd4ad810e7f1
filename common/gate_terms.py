"""The part of a run's terms that says what is promoted. `common.terms` holds it, and checks its bounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from common.added_later import ADDED_LATER
from common.task_terms import Task


class GateMetric(StrEnum):
    """What the gate compares; a loss is better when lower, an F1 when higher.

    The F1 of entities has the short names, because it came first; ``combined_f1`` is the mean of the strict F1 of the
    run's tasks, so that the one with more to find does not decide alone.
    """

    NONE = "none"
    LOSS = "loss"
    STRICT_F1 = "strict_f1"
    LENIENT_F1 = "lenient_f1"
    RELATION_STRICT_F1 = "relation_strict_f1"
    RELATION_LENIENT_F1 = "relation_lenient_f1"
    COMBINED_F1 = "combined_f1"

    @property
    def task(self) -> Task | None:
        """The task of which this is the F1, if it is that of one."""
        if self in (GateMetric.STRICT_F1, GateMetric.LENIENT_F1):
            return Task.ENTITIES
        if self in (GateMetric.RELATION_STRICT_F1, GateMetric.RELATION_LENIENT_F1):
            return Task.RELATIONS
        return None


class OnRejection(StrEnum):
    """What the next round starts from when the gate rejected a candidate."""

    CONTINUE = "continue"  # the candidate
    REVERT = "revert"  # the last served adapter


class OnEvaluatorAbsent(StrEnum):
    """What happens to a candidate that no evaluator scored by the deadline, or that none is left to score.

    And, in SCORING, to a round whose updates are not all scored: it fails, or goes on with the weights of sizes.
    """

    FAIL = "fail"
    PROMOTE = "promote"


@dataclass(frozen=True, slots=True, kw_only=True)
class GateTerms:
    """Whether a candidate is promoted.

    It is when its score is at least the served adapter's plus ``min_improvement`` (a loss: at most the served one's
    minus it). The scores to beat are the last ones promoted; the first scored candidate of a run has none, and is
    promoted.

    Attributes:
        test_digest: Of the set that results will be reported on (``fedmed-site data digest``), or nothing. An evaluator
            declines unless it has those files, and no text of them is in its validation set.
    """

    metric: GateMetric = GateMetric.STRICT_F1
    min_improvement: float = 0.0
    on_rejection: OnRejection = OnRejection.CONTINUE
    on_evaluator_absent: OnEvaluatorAbsent = OnEvaluatorAbsent.FAIL
    test_digest: str = field(default="", metadata=ADDED_LATER)

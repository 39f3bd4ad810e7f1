"""The gate: whether a candidate becomes the served adapter. Compares scores; computes none."""

from __future__ import annotations

from typing import assert_never

from common.terms import GateMetric, GateTerms, Task
from coordinator.domain.values import Scores


def metric_value(metric: GateMetric, scores: Scores) -> float | None:
    """The number that the gate compares, higher is better; None when the scores lack it.

    A loss is negated so that one comparison serves all metrics.
    """
    match metric:
        case GateMetric.NONE:
            return 0.0
        case GateMetric.LOSS:
            return -scores.mean_loss
        case GateMetric.STRICT_F1:
            return None if scores.strict is None else scores.strict.value
        case GateMetric.LENIENT_F1:
            return None if scores.lenient is None else scores.lenient.value
        case GateMetric.RELATION_STRICT_F1 | GateMetric.RELATION_LENIENT_F1:
            relations = scores.of(Task.RELATIONS)
            is_strict = metric is GateMetric.RELATION_STRICT_F1
            counts = None if relations is None else (relations.strict if is_strict else relations.lenient)
            return None if counts is None else counts.value
        case GateMetric.COMBINED_F1:
            each = [None if task.strict is None else task.strict.value for task in scores.tasks]
            known = [value for value in each if value is not None]
            return sum(known) / len(known) if known and len(known) == len(each) else None
    assert_never(metric)


def is_promoted(gate: GateTerms, candidate: Scores, served: Scores | None) -> bool:
    """Whether ``candidate`` beats ``served`` by at least ``gate.min_improvement``; the first candidate always does."""
    if gate.metric is GateMetric.NONE or served is None:
        return True
    new, old = metric_value(gate.metric, candidate), metric_value(gate.metric, served)
    if new is None or old is None:
        return False
    return new >= old + gate.min_improvement

"""What each agent must do now, read off a run: no assignment is stored, so asking twice gives the same answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from common.ids import AssignmentId, SiteName
from coordinator.domain.aggregation import strategy_of
from coordinator.domain.aggregation.strategy import Plan
from coordinator.domain.cohort import evaluate_assignment_id, initialise_assignment_id
from coordinator.domain.evaluators import has_outcome
from coordinator.domain.values import AdapterFile, Phase, Run, RunState


class AssignmentKind(StrEnum):
    """What an agent can be asked to do."""

    INITIALISE = "initialise"
    TRAIN = "train"
    EVALUATE = "evaluate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One agent's work in one round.

    Attributes:
        adapter: What to train or to score; None for INITIALISE.
        plan: What the strategy asks of the site (TRAIN only).
        round_number: 0 for INITIALISE.
    """

    assignment_id: AssignmentId
    kind: AssignmentKind
    run: Run
    round_number: int
    deadline_at: datetime
    adapter: AdapterFile | None = None
    plan: Plan | None = None


def for_site(run: Run, site: SiteName) -> Assignment | None:
    """The TRAIN assignment of ``site``, while its answer is awaited."""
    current = run.current
    if current is None or current.phase is not Phase.TRAINING or run.spec is None:
        return None
    for entry in current.roster:
        if entry.site == site and entry.outcome.is_open:
            return Assignment(
                assignment_id=entry.assignment_id,
                kind=AssignmentKind.TRAIN,
                run=run,
                round_number=current.number,
                deadline_at=current.deadlines[0].at,
                adapter=current.global_adapter,
                plan=strategy_of(run.terms).plan(current.number, site),
            )
    return None


def for_evaluator(run: Run, evaluator: SiteName) -> Assignment | None:
    """The INITIALISE or EVALUATE assignment of ``evaluator``: every evaluator gets it, the first answer counts."""
    current = run.current
    if run.state is RunState.INITIALISING and not has_outcome(run.evaluator_outcomes, evaluator):
        return Assignment(
            assignment_id=initialise_assignment_id(run.run_id, evaluator),
            kind=AssignmentKind.INITIALISE,
            run=run,
            round_number=0,
            deadline_at=run.deadlines[0].at,
        )
    if current is None or current.phase is not Phase.EVALUATING or has_outcome(current.evaluator_outcomes, evaluator):
        return None
    return Assignment(
        assignment_id=evaluate_assignment_id(run.run_id, current.number, evaluator),
        kind=AssignmentKind.EVALUATE,
        run=run,
        round_number=current.number,
        deadline_at=current.deadlines[0].at,
        adapter=current.candidate,
    )

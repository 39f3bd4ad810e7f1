"""What each agent must do now, read off a run: no assignment is stored, so asking twice gives the same answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from common.adapter import AdapterSpec
from common.ids import AssignmentId, Digest, SiteName
from coordinator.domain.adapter_parts import cut_beside, cut_to_train, file_of, part_of
from coordinator.domain.aggregation import strategy_of
from coordinator.domain.aggregation.strategy import Plan
from coordinator.domain.cohort import evaluate_assignment_id, initialise_assignment_id, score_assignment_id
from coordinator.domain.evaluators import has_outcome
from coordinator.domain.values import AdapterFile, Phase, RosterEntry, Round, Run, RunState


class AssignmentKind(StrEnum):
    """What an agent can be asked to do."""

    INITIALISE = "initialise"
    TRAIN = "train"
    SCORE = "score"
    EVALUATE = "evaluate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """One agent's work in one round.

    Attributes:
        adapter: What to train or to score; None for INITIALISE.
        adapter_spec: Its shape.
        side: What is added to it while training, and its shape (TRAIN only).
        plan: What the strategy asks of the site (TRAIN only).
        kept_under: Ids of those of the files that lie with the updates, and not with the adapters.
        entry: The site whose update is to be scored (SCORE only).
        round_number: 0 for INITIALISE.
    """

    assignment_id: AssignmentId
    kind: AssignmentKind
    run: Run
    round_number: int
    deadline_at: datetime
    adapter: AdapterFile | None = None
    adapter_spec: AdapterSpec | None = None
    side: tuple[AdapterFile, AdapterSpec] | None = None
    kept_under: tuple[tuple[Digest, AssignmentId], ...] = ()
    plan: Plan | None = None
    entry: RosterEntry | None = None


def for_site(run: Run, site: SiteName) -> Assignment | None:
    """The TRAIN assignment of ``site``, while its answer is awaited."""
    current = run.current
    if current is None or current.phase is not Phase.TRAINING or run.spec is None:
        return None
    for entry in current.roster:
        if entry.site == site and entry.outcome.is_open:
            return _to_train(run, current, entry)
    return None


def _to_train(run: Run, current: Round, entry: RosterEntry) -> Assignment | None:
    """None while a part that the site starts from is not cut out yet."""
    trained, beside = cut_to_train(run, current, entry), cut_beside(run, current, entry)
    file = file_of(current, trained)
    side = None if beside is None else file_of(current, beside)
    if file is None or (beside is not None and side is None):
        return None
    parts = [part for cut in (trained, beside) if cut is not None and (part := part_of(current, cut)) is not None]
    return Assignment(
        assignment_id=entry.assignment_id,
        kind=AssignmentKind.TRAIN,
        run=run,
        round_number=current.number,
        deadline_at=current.deadlines[0].at,
        adapter=file,
        adapter_spec=trained.shape,
        side=None if beside is None or side is None else (side, beside.shape),
        kept_under=tuple((part.file.digest, part.part_id) for part in parts),
        plan=strategy_of(run.terms).plan(current.number, entry.site),
    )


def for_evaluator(run: Run, evaluator: SiteName) -> Assignment | None:
    """The INITIALISE, SCORE or EVALUATE assignment of ``evaluator``: each one gets it, the first answer counts."""
    current = run.current
    if run.state is RunState.INITIALISING and not has_outcome(run.evaluator_outcomes, evaluator):
        return Assignment(
            assignment_id=initialise_assignment_id(run.run_id, evaluator),
            kind=AssignmentKind.INITIALISE,
            run=run,
            round_number=0,
            deadline_at=run.deadlines[0].at,
        )
    if current is None or has_outcome(current.evaluator_outcomes, evaluator):
        return None
    match current.phase:
        case Phase.SCORING:
            return _to_score(run, current, evaluator)
        case Phase.EVALUATING:
            return Assignment(
                assignment_id=evaluate_assignment_id(run.run_id, current.number, evaluator),
                kind=AssignmentKind.EVALUATE,
                run=run,
                round_number=current.number,
                deadline_at=current.deadlines[0].at,
                adapter=current.candidate,
                adapter_spec=None if current.candidate is None else run.spec_of(current.candidate),
            )
    return None


def _to_score(run: Run, current: Round, evaluator: SiteName) -> Assignment | None:
    """One update without scores. Each evaluator has an order of its own, so that several share the work."""
    ids = {score_assignment_id(run.run_id, current.number, evaluator, entry.site): entry for entry in current.unscored}
    if not ids:
        return None
    assignment_id = min(ids)
    entry = ids[assignment_id]
    assert entry.update is not None and run.spec is not None, "an accepted update is there"
    return Assignment(
        assignment_id=assignment_id,
        kind=AssignmentKind.SCORE,
        run=run,
        round_number=current.number,
        deadline_at=current.deadlines[0].at,
        adapter=entry.update.file,
        adapter_spec=run.spec.at_rank(entry.lora_rank or run.spec.lora_rank),
        kept_under=((entry.update.file.digest, entry.assignment_id),),
        entry=entry,
    )

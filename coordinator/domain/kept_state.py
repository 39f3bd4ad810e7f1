"""Which state of a strategy a round goes on with, and which may still be needed. Holds no state itself.

A state belongs to the adapter that was made with it: a round that starts from an earlier adapter, because a candidate
was rejected and the terms say to revert, goes on with the state of that one.
"""

from __future__ import annotations

from common.ids import AssignmentId, Digest
from common.terms import OnRejection
from coordinator.domain.cohort import state_id
from coordinator.domain.values import AdapterFile, Phase, Round, Run


def state_before(run: Run, current: Round) -> tuple[AssignmentId, AdapterFile] | None:
    """The state that belongs to what ``current`` starts from, and its id; None when there is none (yet)."""
    for past in reversed(run.rounds[: current.number - 1]):
        if past.candidate == current.global_adapter and past.state is not None:
            return state_id(run.run_id, past.number), past.state
    return None


def needed_states(run: Run) -> dict[AssignmentId, Digest]:
    """States of the open round, and of what a later one may start from; none when no round is open any more."""
    current = run.current
    if current is None:
        return {}
    starts = [current.global_adapter, current.candidate]
    if run.terms.gate.on_rejection is OnRejection.REVERT:
        starts += [past.candidate for past in run.rounds if past.phase is Phase.COMMITTED][-1:]
    return {
        state_id(run.run_id, past.number): past.state.digest
        for past in run.rounds
        if past.state is not None and past.candidate in starts
    }


def superseded_states(run: Run) -> list[AssignmentId]:
    """States that nobody will need again."""
    kept = (state_id(run.run_id, past.number) for past in run.rounds if past.state is not None)
    return [each for each in kept if each not in needed_states(run)]

"""The life of one assignment at its site, as a value. It performs nothing: each stage names the one command due in it.

::

    RECEIVED -> DOWNLOADING -> TRAINING -> UPLOADING -> DONE
        |            |             |           |
        +------------+-------------+-----------+-> DECLINING -> DECLINED    the site cannot, and says why
                     +-------------------------+-> REFUSED                  the coordinator said no
        +------------+-------------+-> CANCELLED                            the coordinator no longer wants it

Because the command is a function of the stage alone, a restarted agent goes on by performing the command of the stage
it finds in its journal; commands are idempotent. TRAINING stands for whatever the trainer does (for an evaluator it
makes or scores an adapter), UPLOADING for giving the answer (an update or scores). An answer that is under way is not
cancelled: the coordinator accepts or refuses it, and a cancel may be nothing but the echo of its acceptance.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from common.errors import Reason


class Stage(StrEnum):
    """Where an assignment stands."""

    RECEIVED = "received"
    DOWNLOADING = "downloading"
    TRAINING = "training"
    UPLOADING = "uploading"
    DECLINING = "declining"
    DONE = "done"
    DECLINED = "declined"
    REFUSED = "refused"
    CANCELLED = "cancelled"

    @property
    def is_open(self) -> bool:
        """Whether something is still to be done."""
        return self in _COMMANDS


class Command(StrEnum):
    """What the shell must do; each may be repeated safely."""

    JUDGE = "judge"
    FETCH_ADAPTER = "fetch_adapter"
    RUN_TRAINER = "run_trainer"
    SEND_ANSWER = "send_answer"
    SEND_DECLINE = "send_decline"


class EventKind(StrEnum):
    """What can happen to an assignment."""

    ELIGIBLE = "eligible"  # the site may do it
    FETCHED = "fetched"  # the adapter is here, whole
    TRAINED = "trained"  # the trainer has left a result
    ACCEPTED = "accepted"  # the coordinator took the answer
    UNABLE = "unable"  # the site cannot or may not; it will say so
    DECLINE_HEARD = "decline_heard"  # the coordinator took the no
    REFUSED = "refused"  # the coordinator took neither
    CANCELLED = "cancelled"  # the coordinator no longer wants it


_WITH_REASON = frozenset({EventKind.UNABLE, EventKind.REFUSED, EventKind.CANCELLED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened; UNABLE, REFUSED and CANCELLED say why. ``detail`` is for the people at the site."""

    kind: EventKind
    reason: Reason | None = None
    detail: str = ""

    def __post_init__(self) -> None:
        """Refuse an event that lacks its reason, or has one too many."""
        if (self.reason is not None) != (self.kind in _WITH_REASON):
            raise ValueError(f"event {self.kind}: expected a reason exactly for {sorted(_WITH_REASON)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentState:
    """Where an assignment stands, and why if it did not go well."""

    stage: Stage = Stage.RECEIVED
    reason: Reason | None = None
    detail: str = ""


_COMMANDS: dict[Stage, Command] = {
    Stage.RECEIVED: Command.JUDGE,
    Stage.DOWNLOADING: Command.FETCH_ADAPTER,
    Stage.TRAINING: Command.RUN_TRAINER,
    Stage.UPLOADING: Command.SEND_ANSWER,
    Stage.DECLINING: Command.SEND_DECLINE,
}

_TRANSITIONS: dict[tuple[Stage, EventKind], Stage] = {
    (Stage.RECEIVED, EventKind.ELIGIBLE): Stage.DOWNLOADING,
    (Stage.RECEIVED, EventKind.UNABLE): Stage.DECLINING,
    (Stage.DOWNLOADING, EventKind.FETCHED): Stage.TRAINING,
    (Stage.DOWNLOADING, EventKind.UNABLE): Stage.DECLINING,
    (Stage.DOWNLOADING, EventKind.REFUSED): Stage.REFUSED,
    (Stage.TRAINING, EventKind.TRAINED): Stage.UPLOADING,
    (Stage.TRAINING, EventKind.UNABLE): Stage.DECLINING,
    (Stage.UPLOADING, EventKind.ACCEPTED): Stage.DONE,
    (Stage.UPLOADING, EventKind.UNABLE): Stage.DECLINING,
    (Stage.UPLOADING, EventKind.REFUSED): Stage.REFUSED,
    (Stage.DECLINING, EventKind.DECLINE_HEARD): Stage.DECLINED,
    (Stage.DECLINING, EventKind.REFUSED): Stage.REFUSED,
    (Stage.RECEIVED, EventKind.CANCELLED): Stage.CANCELLED,
    (Stage.DOWNLOADING, EventKind.CANCELLED): Stage.CANCELLED,
    (Stage.TRAINING, EventKind.CANCELLED): Stage.CANCELLED,
}


def commands_of(state: AssignmentState) -> tuple[Command, ...]:
    """What is due in ``state``: one command while it is open, none after its end."""
    return (_COMMANDS[state.stage],) if state.stage.is_open else ()


def can_happen(state: AssignmentState, kind: EventKind) -> bool:
    """Whether an event of this kind is legal in ``state``."""
    return (state.stage, kind) in _TRANSITIONS


def step(state: AssignmentState, event: Event) -> tuple[AssignmentState, tuple[Command, ...]]:
    """The state after ``event``, and the commands then due. The state must be stored before they are performed.

    Raises:
        ValueError: The event cannot happen in this stage.
    """
    if not can_happen(state, event.kind):
        raise ValueError(f"assignment {state.stage}: expected one of its events, got {event.kind}")
    why = event if event.reason is not None else state  # a decline keeps its reason when it is heard
    after = AssignmentState(stage=_TRANSITIONS[state.stage, event.kind], reason=why.reason, detail=why.detail)
    return after, commands_of(after)

"""What can happen to a run. Events carry the time they happened at; the domain has no clock."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from common.adapter import AdapterSpec
from common.errors import Reason
from common.ids import AssignmentId, SiteName
from coordinator.domain.values import AdapterFile, AdapterPart, DeadlineName, Scores, Update


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceObserved:
    """Who is there now, every site that may be invited, and every evaluator that may be asked.

    Nobody of ``out`` is among them: they are banned, or have withdrawn, whether the terms name them or not.

    Attributes:
        max_lora_ranks: The largest rank of each site that has said one; 0: any.
    """

    at: datetime
    present: frozenset[SiteName]
    enrolled: frozenset[SiteName]
    evaluators: frozenset[SiteName]
    max_lora_ranks: tuple[tuple[SiteName, int], ...] = ()
    out: frozenset[SiteName] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentTaken:
    """An agent said that it works on its assignment."""

    at: datetime
    assignment_id: AssignmentId


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentHeld:
    """An agent said that it has its assignment and may not go on now: nobody at its site has said yes, say."""

    at: datetime
    assignment_id: AssignmentId
    by: SiteName
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentDeclined:
    """An agent said no."""

    at: datetime
    assignment_id: AssignmentId
    by: SiteName
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteLeft:
    """A site takes part no more: it has withdrawn, or was banned, or its update is by a key that was revoked since.

    What it sent is not combined, if it can be helped.
    """

    at: datetime
    site: SiteName
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatesWithdrawn:
    """A site has withdrawn: no update of its own is kept, of whatever round, once it is combined."""

    at: datetime
    site: SiteName


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstAdapterReceived:
    """An evaluator made the first adapter."""

    at: datetime
    adapter: AdapterFile
    spec: AdapterSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateAccepted:
    """An update passed admission and lies in the blob store."""

    at: datetime
    assignment_id: AssignmentId
    update: Update


@dataclass(frozen=True, slots=True, kw_only=True)
class PartsReady:
    """What sites start from is cut out of the adapters that it comes from."""

    at: datetime
    round_number: int
    parts: tuple[AdapterPart, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateScored:
    """An evaluator scored the update of ``site``."""

    at: datetime
    round_number: int
    site: SiteName
    scores: Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerRefused:
    """What an agent sent (an update, a first adapter, scores) was refused; it will not be asked for again."""

    at: datetime
    assignment_id: AssignmentId
    by: SiteName
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateReady:
    """The updates are combined; ``weights`` sum to one, or to less where the strategy cut updates short.

    Attributes:
        state: What the strategy keeps for the next round, if it keeps anything.
    """

    at: datetime
    round_number: int
    candidate: AdapterFile
    weights: tuple[tuple[SiteName, float], ...]
    state: AdapterFile | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregationFailed:
    """The updates could not be combined."""

    at: datetime
    round_number: int
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoresReported:
    """An evaluator scored the candidate."""

    at: datetime
    round_number: int
    scores: Scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The version of a closed round lies in the registry."""

    at: datetime
    round_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadlinePassed:
    """A deadline of the open round (or of INITIALISE) has come."""

    at: datetime
    name: DeadlineName


@dataclass(frozen=True, slots=True, kw_only=True)
class AbortRequested:
    """An operator ends the run."""

    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeLost:
    """The time of day moved on by ``lost`` that does not count: the coordinator was away, or the clock was set.

    ``lost`` is negative when the clock was set back.
    """

    at: datetime
    lost: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseRequested:
    """An operator holds the run."""

    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumeRequested:
    """An operator lets the run go on."""

    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtensionRequested:
    """An operator wants no open deadline to come before ``not_before``."""

    at: datetime
    not_before: datetime


RoundEvent = (
    PresenceObserved
    | AssignmentTaken
    | AssignmentHeld
    | AssignmentDeclined
    | UpdateAccepted
    | UpdateScored
    | AnswerRefused
    | PartsReady
    | SiteLeft
    | CandidateReady
    | AggregationFailed
    | ScoresReported
    | DeadlinePassed
    | AbortRequested
)
# What an operator or the clock does to the time that a run has.
TimeEvent = TimeLost | PauseRequested | ResumeRequested | ExtensionRequested
RunEvent = RoundEvent | FirstAdapterReceived | Published | UpdatesWithdrawn | TimeEvent

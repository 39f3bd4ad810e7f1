"""Runs, rounds and rosters as values. Nothing here decides; the machines do."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from common.adapter import AdapterSpec
from common.errors import Reason
from common.given_under import GivenUnder
from common.ids import AssignmentId, Digest, RunId, SiteName
from common.terms import Task, Terms


class RunState(StrEnum):
    """Where a run stands."""

    INITIALISING = "initialising"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    ABORTED = "aborted"

    @property
    def is_open(self) -> bool:
        """Whether the run can still move."""
        return self in (RunState.INITIALISING, RunState.RUNNING)


class Phase(StrEnum):
    """Where a round stands."""

    SELECTING = "selecting"
    TRAINING = "training"
    SCORING = "scoring"
    AGGREGATING = "aggregating"
    EVALUATING = "evaluating"
    COMMITTED = "committed"
    REJECTED = "rejected"
    FAILED = "failed"
    ABORTED = "aborted"

    @property
    def is_open(self) -> bool:
        """Whether the round can still move."""
        return self in (Phase.SELECTING, Phase.TRAINING, Phase.SCORING, Phase.AGGREGATING, Phase.EVALUATING)


class SiteOutcome(StrEnum):
    """Where a site stands in a round."""

    INVITED = "invited"
    JOINED = "joined"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    DECLINED = "declined"
    STRAGGLER = "straggler"

    @property
    def is_open(self) -> bool:
        """Whether the site's answer is still awaited."""
        return self in (SiteOutcome.INVITED, SiteOutcome.JOINED)


class DeadlineName(StrEnum):
    """The deadlines that a round or a run may wait for (seconds in the run's terms)."""

    TRAIN = "train_deadline"
    GRACE = "grace"
    EVALUATE = "evaluate_deadline"


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadline:
    """The shell turns it into a ``DeadlinePassed`` event when ``at`` has come."""

    name: DeadlineName
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterFile:
    """A safetensors file in the blob store, by digest and size."""

    digest: Digest
    size_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCounts:
    """How much of one task an update was trained on."""

    task: Task
    num_examples: int
    num_label_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedBy:
    """The site's signature over an update and the public key that it is by, both in hex.

    Attributes:
        certificate_pem: In which the consortium's root says whose key it is; empty when the site sent none.
    """

    signature: str
    public_key: str
    certificate_pem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """An accepted update: its file, the counts that came with it, in all and task by task, and the site's signature.

    Attributes:
        given_under: What the site says of the policy that it gave it under; None: nothing, as earlier agents.
    """

    file: AdapterFile
    num_examples: int
    num_label_tokens: int
    tasks: tuple[TaskCounts, ...] = ()
    signed: SignedBy | None = None
    given_under: GivenUnder | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class F1Score:
    """Counts behind an F1; F1 = 2 tp / (predicted + gold), and 0 when both are 0, as in nervaluate."""

    true_positives: int
    predicted: int
    gold: int

    @property
    def value(self) -> float:
        """The F1, 0 to 1."""
        total = self.predicted + self.gold
        return 2 * self.true_positives / total if total else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScores:
    """How an adapter did in one task; see `Scores`."""

    task: Task
    mean_loss: float
    num_examples: int
    num_label_tokens: int
    strict: F1Score | None = None
    lenient: F1Score | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """How an adapter did on the consortium's validation set; the loss is mean token cross-entropy in nats.

    Attributes:
        strict, lenient: Of entities; None when nothing was decoded, or they are no task of the run.
        tasks: Scores of each task that the validation set has examples of, in the order of `Task`.
        data_digest: Of the validation set; empty from an evaluator of an earlier version.
    """

    mean_loss: float
    num_examples: int
    num_label_tokens: int
    strict: F1Score | None = None
    lenient: F1Score | None = None
    duration_seconds: float = 0.0
    tasks: tuple[TaskScores, ...] = ()
    data_digest: str = ""

    def of(self, task: Task) -> TaskScores | None:
        """The scores of one task, if there are any."""
        return next((each for each in self.tasks if each.task is task), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterPart:
    """Ranks ``start`` to ``stop`` of the adapter ``source``, as a file of their own, kept under ``part_id``."""

    part_id: AssignmentId
    source: Digest
    start: int
    stop: int
    file: AdapterFile


@dataclass(frozen=True, slots=True, kw_only=True)
class RosterEntry:
    """One site in one round.

    Attributes:
        lora_rank: At which it trains; None: the run's.
        scores: How the update did on the consortium's validation set, where the strategy asks for that.
        is_withdrawn: The update is in the aggregate, and its file is not kept as the terms say: the site has withdrawn.
    """

    site: SiteName
    assignment_id: AssignmentId
    outcome: SiteOutcome = SiteOutcome.INVITED
    reason: Reason | None = None
    update: Update | None = None
    scores: Scores | None = None
    weight: float = 0.0
    lora_rank: int | None = None
    is_withdrawn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluatorOutcome:
    """An evaluator that will not answer: DECLINED by itself, or REFUSED because of what it sent."""

    evaluator: SiteName
    outcome: SiteOutcome
    reason: Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """An agent that may not go on with its assignment now: nobody there has approved the run, say."""

    agent: SiteName
    assignment_id: AssignmentId
    reason: Reason
    since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One cycle of a run.

    Attributes:
        number: Counted from 1.
        roster: Everyone invited, sorted by site; empty while SELECTING.
        global_adapter: What this round starts from.
        candidate: The aggregate, once there is one.
        parts: Of the adapters that sites start from, where one trains at a lower rank or beside the rest.
        state: What the strategy keeps beside the candidate, for a round that starts from it.
        evaluator_outcomes: Evaluators that will not score updates or candidate, in the order in which that was decided.
        is_weighed_by_size: No evaluator scored every update, so the weights are those of sizes alone.
        is_unscored: The candidate was promoted without scores, because no evaluator gave any.
        is_partial: Factors stayed at the sites, so the candidate is no whole adapter: neither scored nor promoted.
    """

    number: int
    phase: Phase
    global_adapter: AdapterFile
    opened_at: datetime
    roster: tuple[RosterEntry, ...] = ()
    deadlines: tuple[Deadline, ...] = ()
    candidate: AdapterFile | None = None
    parts: tuple[AdapterPart, ...] = ()
    state: AdapterFile | None = None
    scores: Scores | None = None
    evaluator_outcomes: tuple[EvaluatorOutcome, ...] = ()
    is_weighed_by_size: bool = False
    is_unscored: bool = False
    is_partial: bool = False
    reason: Reason | None = None
    closed_at: datetime | None = None

    @property
    def accepted(self) -> tuple[RosterEntry, ...]:
        """Entries whose update is in the round, sorted by site."""
        return tuple(entry for entry in self.roster if entry.outcome is SiteOutcome.ACCEPTED)

    @property
    def unscored(self) -> tuple[RosterEntry, ...]:
        """Accepted entries whose update has no scores (yet), sorted by site."""
        return tuple(entry for entry in self.accepted if entry.scores is None)

    @property
    def awaited(self) -> tuple[RosterEntry, ...]:
        """Entries whose answer is still awaited."""
        return tuple(entry for entry in self.roster if entry.outcome.is_open)

    @property
    def is_promoted(self) -> bool:
        """Whether its candidate is (to be) served."""
        return self.phase is Phase.COMMITTED and not self.is_partial

    @property
    def is_subset(self) -> bool:
        """Whether the aggregate lacks an invited site."""
        return len(self.accepted) < len(self.roster)


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """The last promoted adapter whose folder is in the registry, with the round it came out of."""

    adapter: AdapterFile
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A training campaign.

    Attributes:
        spec: The adapter's shape, once the first adapter is there.
        first_adapter: Version 0, made by an evaluator.
        rounds: Oldest first; only the last one may be open.
        deadlines: Those of the INITIALISE assignment.
        evaluator_outcomes: Evaluators that will not make the first adapter, in the order in which that was decided.
        holds: What agents said last of assignments that wait at their sites; some of these may have ended since.
        paused_at: Since when an operator holds the run, if one does: nothing new is begun, and deadlines stand still.
    """

    run_id: RunId
    terms: Terms
    state: RunState
    created_at: datetime
    spec: AdapterSpec | None = None
    first_adapter: AdapterFile | None = None
    served: Served | None = None
    rounds: tuple[Round, ...] = ()
    deadlines: tuple[Deadline, ...] = ()
    evaluator_outcomes: tuple[EvaluatorOutcome, ...] = ()
    reason: Reason | None = None
    ended_at: datetime | None = None
    paused_at: datetime | None = None
    holds: tuple[Hold, ...] = ()

    def spec_of(self, file: AdapterFile) -> AdapterSpec:
        """The shape of the first adapter or of a candidate."""
        assert self.spec is not None, "there is an adapter"
        return self.spec if file == self.first_adapter else self.spec.at_rank(self.terms.published_rank)

    @property
    def is_paused(self) -> bool:
        """Whether an operator holds the run."""
        return self.paused_at is not None

    @property
    def current(self) -> Round | None:
        """The open round, if there is one."""
        return self.rounds[-1] if self.rounds and self.rounds[-1].phase.is_open else None

    @property
    def awaits_presence(self) -> bool:
        """Whether who is known and present decides what comes next: in SELECTING, and after an evaluator's no."""
        if self.is_paused:
            return False
        if self.state is RunState.INITIALISING:
            return bool(self.evaluator_outcomes)
        current = self.current
        return current is not None and (current.phase is Phase.SELECTING or bool(current.evaluator_outcomes))

    @property
    def open_deadlines(self) -> tuple[Deadline, ...]:
        """Deadlines that the run waits for; none while it is paused, for they stand still."""
        if not self.state.is_open or self.is_paused:
            return ()
        return self.deadlines if self.current is None else self.current.deadlines

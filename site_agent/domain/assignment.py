"""What a site agent can be asked to do, as values. How it is asked (protobuf) is not known here."""

from __future__ import annotations

from dataclasses import dataclass

from common.adapter import AdapterSpec, FactorSet, TensorSpec, WireDtype
from common.errors import Reason
from common.ids import AssignmentId, Digest, RunId
from common.terms import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterRef:
    """An adapter file that can be downloaded."""

    digest: Digest
    size_bytes: int
    spec_digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateSpec:
    """What an update must hold, and nothing else: these tensors, sorted by name, in this dtype."""

    tensors: tuple[TensorSpec, ...]
    dtype: WireDtype


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialiseWork:
    """Make the first adapter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainWork:
    """Train the global adapter: the factors in ``trained`` may change, those in ``uploaded`` travel up.

    Attributes:
        side: What is added to it while training and stays as it is, if anything, and its shape.
        own: Factors that the site keeps, and starts from as it kept them, where it has any.
        asks_given_under: Whether the coordinator takes what the site says of its policy.
    """

    global_adapter: AdapterRef
    adapter_spec: AdapterSpec
    trained: FactorSet
    uploaded: FactorSet
    side: tuple[AdapterRef, AdapterSpec] | None = None
    own: FactorSet | None = None
    asks_given_under: bool = False

    @property
    def update_spec(self) -> UpdateSpec:
        """The part of the adapter that travels up."""
        return UpdateSpec(tensors=self.adapter_spec.tensors_of(self.uploaded), dtype=self.adapter_spec.dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreWork:
    """Score the update of a site: the loss alone."""

    update: AdapterRef
    adapter_spec: AdapterSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateWork:
    """Score a candidate."""

    candidate: AdapterRef
    adapter_spec: AdapterSpec


Work = InitialiseWork | TrainWork | ScoreWork | EvaluateWork


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """What this agent must do in one round.

    Attributes:
        round_number: Counted from 1; 0 for INITIALISE.
        deadline_at: Unix seconds, by the coordinator's clock; for people, nothing here acts on it.
    """

    assignment_id: AssignmentId
    run_id: RunId
    round_number: int
    terms: Terms
    deadline_at: float
    work: Work

    @property
    def kind(self) -> str:
        """The glossary's name of the work, in lower case."""
        match self.work:
            case InitialiseWork():
                return "initialise"
            case TrainWork():
                return "train"
            case ScoreWork():
                return "score"
            case EvaluateWork():
                return "evaluate"

    @property
    def adapter(self) -> AdapterRef | None:
        """The adapter to fetch first, if the work starts from one."""
        match self.work:
            case InitialiseWork():
                return None
            case TrainWork(global_adapter=adapter) | ScoreWork(update=adapter) | EvaluateWork(candidate=adapter):
                return adapter

    @property
    def side_adapter(self) -> AdapterRef | None:
        """The adapter to fetch beside it, if something is added while training."""
        return self.work.side[0] if isinstance(self.work, TrainWork) and self.work.side is not None else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """The assignment is no longer wanted."""

    assignment_id: AssignmentId
    reason: Reason

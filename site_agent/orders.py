"""The files between the agent and its trainer: typed orders down, typed results up, as JSON.

Both processes import this module and nothing else of each other. It holds no text of a note and no key: an order
names folders and settings, a result holds counts, scores and digests. It does not read or write files itself.

An *order folder* holds::

    order.json            written by the agent before the trainer starts
    adapter.safetensors   the adapter to start from or to score (absent for an INITIALISE order)
    side.safetensors      what is added to it while training, and stays as it is (where the order says its rank)
    progress.json         replaced atomically by the trainer while it works
    own.safetensors       factors that the site kept, to start from in place of the adapter's (where it has any)
    personal.safetensors  written by the trainer: factors for the site to keep (where the order names some)
    checkpoint.safetensors  replaced atomically by the trainer while it trains; a restarted one goes on from it
    stop                  written by the agent: the trainer is to write a checkpoint and to end without a result
    update.safetensors    written by the trainer: the site's update, or the first adapter
    result.json           written last, atomically: its presence means "done"
    failure.json          written instead of result.json when the trainer knows why it failed
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from common.adapter import AdapterSpec, FactorSet
from common.terms import BaseModelTerms, LoraTerms, Task, TaskTerms, TrainingTerms

ORDER_FILE = "order.json"
ADAPTER_FILE = "adapter.safetensors"
SIDE_FILE = "side.safetensors"
OWN_FILE = "own.safetensors"
PERSONAL_FILE = "personal.safetensors"
PROGRESS_FILE = "progress.json"
CHECKPOINT_FILE = "checkpoint.safetensors"
STOP_FILE = "stop"
UPDATE_FILE = "update.safetensors"
RESULT_FILE = "result.json"
FAILURE_FILE = "failure.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModelSource:
    """Where this site keeps the base model, and what the run's terms say it must be.

    Attributes:
        location: A local folder, or a hub id already in the local cache.
        expected: Digests from the run's terms; the trainer refuses a model that differs.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:N"``: this site's own choice.
        threads: CPU threads for torch; 0 leaves torch's default.
        gpu_share: Of the device that may be used, above 0 and at most 1: of a GPU's memory, or of a CPU's cores.
    """

    location: str
    expected: BaseModelTerms
    device: str = "auto"
    threads: int = 0
    gpu_share: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialiseOrder:
    """Make the first adapter: A(0) random from ``seed``, B = 0, in the dtype that travels."""

    kind: Literal["initialise"] = "initialise"
    base_model: BaseModelSource
    lora: LoraTerms
    seed: int
    wire_dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FileShare:
    """What of one data file is trained, and at most how many of its examples a round; 0: all."""

    tasks: tuple[Task, ...] = tuple(Task)
    examples_per_round: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOrder:
    """Train the adapter in the order folder on this site's notes.

    Attributes:
        data_files: JSONL files of annotated passages, read by the trainer alone.
        trained: The factors that training may change.
        uploaded: The factors that the update holds (`AdapterSpec.tensors_of`), and no others.
        lora: At the rank at which this site trains.
        round_number: Counted from 1.
        side_lora_rank: Of the adapter in ``side.safetensors``; 0: there is none.
        own: The factors that ``personal.safetensors`` is to hold; None: it is not written.
        checkpoint_seconds: How often the trainer writes down where it stands; 0: after every step.
        tasks: Of the terms' tasks only these are trained: the site's own choice.
        shares: One for each of ``data_files``, in place of ``tasks`` and of what the terms say of examples a round;
            none: those hold for all files together.
    """

    kind: Literal["train"] = "train"
    base_model: BaseModelSource
    lora: LoraTerms
    task: TaskTerms
    training: TrainingTerms
    data_files: tuple[str, ...]
    trained: FactorSet
    uploaded: FactorSet
    round_number: int
    seed: int
    wire_dtype: str
    side_lora_rank: int = 0
    own: FactorSet | None = None
    checkpoint_seconds: float = 300.0
    tasks: tuple[Task, ...] = tuple(Task)
    shares: tuple[FileShare, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateOrder:
    """Score the adapter in the order folder (or the bare base model, when there is none) on annotated passages.

    Attributes:
        asked_files: For each of ``data_files`` the file whose annotations say what is asked of it: a sample need not
            have all that its corpus annotates. Empty: the files themselves.
        max_passages: At most this many passages, chosen by ``seed``; 0 means all.
        shots: Worked examples put into the prompt, taken from ``shot_files``; 0 for none.
        generate: Whether to decode answers and score entities.
        measure_loss: Whether to measure the token loss, as the gate of a run needs it.
        tell_documents: Whether the result holds the counts of each document, as comparing models by bootstrap needs it.
        test_files: Of which no text may be in ``data_files``.
        test_digest: What the digest of ``test_files`` must be; empty for any.
    """

    kind: Literal["evaluate"] = "evaluate"
    base_model: BaseModelSource
    lora: LoraTerms
    task: TaskTerms
    training: TrainingTerms
    data_files: tuple[str, ...]
    asked_files: tuple[str, ...] = ()
    shot_files: tuple[str, ...] = ()
    shots: int = 0
    max_passages: int = 0
    generate: bool = True
    measure_loss: bool = True
    tell_documents: bool = False
    seed: int = 0
    test_files: tuple[str, ...] = ()
    test_digest: str = ""


Order = Annotated[InitialiseOrder | TrainOrder | EvaluateOrder, Field(discriminator="kind")]


class TrainerStage(StrEnum):
    """What the trainer is doing."""

    LOADING = "loading"
    TRAINING = "training"
    SCORING = "scoring"
    WRITING = "writing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where the trainer stands; numbers only.

    Attributes:
        step / steps: Optimiser steps (training) or passages (scoring) done and in all.
        loss: Mean token cross-entropy in nats since the last report; None before the first.
        tokens_per_second: Non-padding tokens a second.
    """

    stage: TrainerStage
    step: int = 0
    steps: int = 0
    loss: float | None = None
    tokens_per_second: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialiseResult:
    """The first adapter lies in ``update.safetensors`` and has this shape."""

    kind: Literal["initialise"] = "initialise"
    spec: AdapterSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskCounts:
    """How much of one task a round's data holds; see `TrainResult`."""

    task: Task
    num_examples: int
    num_label_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """The update lies in ``update.safetensors``; these counts go with it.

    Attributes:
        num_examples: Sentence-level examples in one pass of this round's data.
        num_label_tokens: Tokens that count in the loss, over one pass.
        mean_loss: Mean token cross-entropy in nats over the last local epoch.
        num_left_out: Sentences of all the site's notes that are longer than ``max_length`` tokens.
        padding_share: Padding in all the tokens that were computed, 0 to 1.
        peak_memory_bytes: The most that tensors took on the GPU; on a CPU, the whole process.
        tasks: The counts of each task that there are examples of; they sum to those above.
    """

    kind: Literal["train"] = "train"
    num_examples: int
    num_label_tokens: int
    mean_loss: float
    steps: int
    seconds: float
    tokens_per_second: float
    padding_share: float
    peak_memory_bytes: int
    num_left_out: int = 0
    tasks: tuple[TaskCounts, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class F1Counts:
    """True positives, predictions and gold items of one matching rule; F1 = 2 tp / (predicted + gold)."""

    true_positives: int
    predicted: int
    gold: int


@dataclass(frozen=True, slots=True, kw_only=True)
class F1Interval:
    """A confidence interval of an F1."""

    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeCounts:
    """Counts of one entity type; of relations, those of one role: the modifier's type, or the relation's."""

    entity_type: str
    strict: F1Counts
    lenient: F1Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentCounts:
    """Counts of one document; it has no name here, only its place: the same passages come in the same order.

    Attributes:
        file: Which of the order's ``data_files`` it is from, counted from 0.
        strict_agnostic / lenient_agnostic: Whatever the types; None in a result of before these were told.
    """

    file: int
    strict: F1Counts
    lenient: F1Counts
    strict_agnostic: F1Counts | None = None
    lenient_agnostic: F1Counts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCounts:
    """What is told of one of the order's ``data_files`` as a whole, beside the counts of its documents.

    Attributes:
        file: Counted from 0.
        answers: How many questions were asked; 0 of a model that answers none.
        malformed_answers: How many of the answers broke their form.
    """

    file: int
    per_type: tuple[TypeCounts, ...]
    answers: int
    malformed_answers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScores:
    """Scores in one task; see `EvaluateResult`."""

    task: Task
    mean_loss: float | None
    num_label_tokens: int
    num_examples: int
    strict: F1Counts | None = None
    lenient: F1Counts | None = None
    strict_agnostic: F1Counts | None = None
    lenient_agnostic: F1Counts | None = None
    strict_interval: F1Interval | None = None
    per_type: tuple[TypeCounts, ...] = ()
    documents: tuple[DocumentCounts, ...] = ()
    files: tuple[FileCounts, ...] = ()
    malformed_answers: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateResult:
    """Scores of one adapter on one set of passages; counts, so that they can be added over sets.

    Loss, examples and label tokens are those of all tasks together, the F1 counts those of entities; ``tasks`` has both
    apart. ``strict`` and ``lenient`` are type-aware and micro-averaged; the ``_agnostic`` ones ignore types.
    The F1 counts are None when nothing was decoded, the loss when it was not measured.

    Attributes:
        strict_interval: Of the strict F1 with 95 % confidence, by drawing documents again (bootstrap).
        malformed_answers: Answers that broke their form; what could be read of them counts all the same.
        documents: Where the order asks for them; files in the order's order, documents as they come in each. The
            ``files`` of a task are told with them.
        data_digest: Of the whole set (`extraction.set_digest`), so that scores of different sets are told apart.
    """

    kind: Literal["evaluate"] = "evaluate"
    mean_loss: float | None
    num_label_tokens: int
    num_examples: int
    num_passages: int
    strict: F1Counts | None = None
    lenient: F1Counts | None = None
    strict_agnostic: F1Counts | None = None
    lenient_agnostic: F1Counts | None = None
    strict_interval: F1Interval | None = None
    per_type: tuple[TypeCounts, ...] = ()
    documents: tuple[DocumentCounts, ...] = ()
    malformed_answers: int = 0
    seconds: float = 0.0
    tasks: tuple[TaskScores, ...] = ()
    data_digest: str = ""


Result = Annotated[InitialiseResult | TrainResult | EvaluateResult, Field(discriminator="kind")]


class FailureReason(StrEnum):
    """Why the trainer could not do its order; each is something a person at the site can act on."""

    BASE_MODEL_MISMATCH = "BASE_MODEL_MISMATCH"
    BASE_MODEL_UNREADABLE = "BASE_MODEL_UNREADABLE"
    NOTES_INVALID = "NOTES_INVALID"
    NOTES_TOO_FEW = "NOTES_TOO_FEW"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    DEVICE_UNAVAILABLE = "DEVICE_UNAVAILABLE"
    LOSS_NOT_FINITE = "LOSS_NOT_FINITE"
    SETTINGS_UNSUPPORTED = "SETTINGS_UNSUPPORTED"
    TRAINER_CRASHED = "TRAINER_CRASHED"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why there is no result. ``detail`` says expected against got, and never holds text of a note."""

    reason: FailureReason
    detail: str
    error_id: str


ORDER: TypeAdapter[InitialiseOrder | TrainOrder | EvaluateOrder] = TypeAdapter(Order)
RESULT: TypeAdapter[InitialiseResult | TrainResult | EvaluateResult] = TypeAdapter(Result)
PROGRESS = TypeAdapter(Progress)
FAILURE = TypeAdapter(Failure)

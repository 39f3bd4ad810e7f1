"""protobuf <-> the agent's values. Nothing else touches both (law 6), and nothing is sent from here."""

from __future__ import annotations

import re

from google.protobuf.duration_pb2 import Duration

from common.adapter import AdapterSpec, FactorSet
from common.errors import InputInvalidError, Reason
from common.given_under import PolicyStand
from common.ids import AssignmentId, RunId, check_digest
from common.rpc_errors import reason_from_proto
from common.terms import Task
from common.wire import spec_from_proto, spec_to_proto, terms_from_proto
from fedmedlora.v1 import rounds_pb2, types_pb2
from site_agent.app.answers import (
    EvaluationScores,
    FirstAdapter,
    ReportedProgress,
    TaskScores,
    TrainedUpdate,
    UploadHeader,
)
from site_agent.app.ports import Unreadable
from site_agent.domain.assignment import (
    AdapterRef,
    Assignment,
    Cancel,
    EvaluateWork,
    InitialiseWork,
    ScoreWork,
    TrainWork,
    Work,
)
from site_agent.orders import F1Counts, TaskCounts, TrainerStage

_FACTORS = {
    types_pb2.FACTOR_SET_A_AND_B: FactorSet.A_AND_B,
    types_pb2.FACTOR_SET_A_ONLY: FactorSet.A_ONLY,
    types_pb2.FACTOR_SET_B_ONLY: FactorSet.B_ONLY,
}
_STANDS = {
    PolicyStand.SHOWN: rounds_pb2.POLICY_STAND_SHOWN,
    PolicyStand.WITHHELD: rounds_pb2.POLICY_STAND_WITHHELD,
    PolicyStand.UNWRITTEN: rounds_pb2.POLICY_STAND_UNWRITTEN,
}
_TASKS = {Task.ENTITIES: types_pb2.TASK_ENTITIES, Task.RELATIONS: types_pb2.TASK_RELATIONS}
_STAGES = {
    TrainerStage.LOADING: rounds_pb2.TRAINER_STAGE_LOADING,
    TrainerStage.TRAINING: rounds_pb2.TRAINER_STAGE_TRAINING,
    TrainerStage.SCORING: rounds_pb2.TRAINER_STAGE_SCORING,
    TrainerStage.WRITING: rounds_pb2.TRAINER_STAGE_WRITING,
}
_ASSIGNMENT_ID = re.compile(r"[0-9a-f]{32}")


def poll_answer(message: rounds_pb2.AwaitAssignmentResponse) -> Assignment | Unreadable | Cancel | None:
    """What the coordinator wants done now.

    Raises:
        InputInvalidError: Not even the assignment's id can be read.
    """
    match message.WhichOneof("outcome"):
        case "assignment":
            assignment_id = _assignment_id(message.assignment.assignment_id)
            try:
                return _assignment(assignment_id, message.assignment)
            except InputInvalidError as error:
                return Unreadable(assignment_id=assignment_id, detail=error.message)
        case "cancel":
            return Cancel(
                assignment_id=_assignment_id(message.cancel.assignment_id),
                reason=_cancel_reason(message.cancel.reason),
            )
        case _:
            return None


def _assignment_id(value: str) -> AssignmentId:
    """Ids become names of folders: nothing but 32 hex digits is let in."""
    if not _ASSIGNMENT_ID.fullmatch(value):
        raise InputInvalidError(Reason.FIELD_INVALID, f"assignment_id: expected 32 hex digits, got {value[:40]!r}")
    return AssignmentId(value)


def _cancel_reason(value: int) -> Reason:
    """A cancel counts whatever its reason; one that this version does not know is told as ROUND_CLOSED."""
    try:
        return reason_from_proto(value)
    except InputInvalidError:
        return Reason.ROUND_CLOSED


def _assignment(assignment_id: AssignmentId, message: rounds_pb2.Assignment) -> Assignment:
    return Assignment(
        assignment_id=assignment_id,
        run_id=RunId(message.run_id),
        round_number=message.round_number,
        terms=terms_from_proto(message.terms),
        deadline_at=message.deadline_at.seconds + message.deadline_at.nanos / 1e9,
        work=_work(message),
    )


def _work(message: rounds_pb2.Assignment) -> Work:
    match message.WhichOneof("work"):
        case "initialise":
            return InitialiseWork()
        case "train":
            return TrainWork(
                global_adapter=adapter_ref(message.train.global_adapter),
                adapter_spec=spec_from_proto(message.train.adapter_spec),
                trained=_factors(message.train.trained, "train.trained"),
                uploaded=_factors(message.train.uploaded, "train.uploaded"),
                side=_side(message.train),
                own=_factors(message.train.own, "train.own") if message.train.own else None,
                asks_given_under=message.train.asks_given_under,
            )
        case "score":
            return ScoreWork(
                update=adapter_ref(message.score.update), adapter_spec=spec_from_proto(message.score.adapter_spec)
            )
        case "evaluate":
            return EvaluateWork(
                candidate=adapter_ref(message.evaluate.candidate),
                adapter_spec=spec_from_proto(message.evaluate.adapter_spec),
            )
        case _:
            raise InputInvalidError(Reason.FIELD_MISSING, "work: expected a known kind of work, got none")


def _side(work: rounds_pb2.TrainWork) -> tuple[AdapterRef, AdapterSpec] | None:
    if not work.HasField("side_adapter"):
        return None
    return adapter_ref(work.side_adapter), spec_from_proto(work.side_spec)


def _factors(value: types_pb2.FactorSet.ValueType, what: str) -> FactorSet:
    if value not in _FACTORS:
        raise InputInvalidError(Reason.FIELD_INVALID, f"{what}: expected a known set of factors, got {int(value)}")
    return _FACTORS[value]


def adapter_ref(message: types_pb2.AdapterRef) -> AdapterRef:
    """Where an adapter can be downloaded, and what it must be.

    Raises:
        InputInvalidError: DIGEST_INVALID.
    """
    return AdapterRef(
        digest=check_digest(message.digest, "adapter.digest"),
        size_bytes=message.size_bytes,
        spec_digest=check_digest(message.spec_digest, "adapter.spec_digest"),
    )


def upload_header(header: UploadHeader) -> rounds_pb2.UploadUpdateRequest:
    """The first message of an upload."""
    message = rounds_pb2.UploadHeader(
        assignment_id=header.assignment_id, digest=header.digest, size_bytes=header.size_bytes
    )
    if header.signature is not None:
        message.signature.signature = bytes.fromhex(header.signature.signature)
        message.signature.public_key = bytes.fromhex(header.signature.public_key)
        message.signature.certificate = header.signature.certificate_pem.encode("ascii")
    match header.content:
        case TrainedUpdate() as update:
            message.trained.base_digest = update.base_digest
            message.trained.num_examples = update.num_examples
            message.trained.num_label_tokens = update.num_label_tokens
            if update.mean_loss is not None:
                message.trained.mean_loss = update.mean_loss
            message.trained.tasks.extend(_task_counts(each) for each in update.tasks)
            if update.given_under is not None:
                message.trained.given_under.stand = _STANDS[update.given_under.stand]
                message.trained.given_under.digest = update.given_under.digest or ""
        case FirstAdapter(spec=spec):
            message.first.spec.CopyFrom(spec_to_proto(spec))
    return rounds_pb2.UploadUpdateRequest(header=message)


def progress_request(assignment_id: AssignmentId, progress: ReportedProgress) -> rounds_pb2.ReportProgressRequest:
    """How far the trainer is."""
    return rounds_pb2.ReportProgressRequest(
        assignment_id=assignment_id,
        stage=_STAGES[progress.stage],
        step=progress.step,
        steps=progress.steps,
        loss=progress.loss,
        tokens_per_second=progress.tokens_per_second,
    )


def evaluation_request(assignment_id: AssignmentId, scores: EvaluationScores) -> rounds_pb2.ReportEvaluationRequest:
    """The scores of a candidate."""
    nanos = round(scores.seconds * 1e9)
    message = rounds_pb2.EvaluationScores(
        mean_loss=scores.mean_loss,
        num_examples=scores.num_examples,
        num_label_tokens=scores.num_label_tokens,
        strict=_f1_counts(scores.strict),
        lenient=_f1_counts(scores.lenient),
        duration=Duration(seconds=nanos // 10**9, nanos=nanos % 10**9),
        tasks=[_task_scores(each) for each in scores.tasks],
        data_digest=scores.data_digest,
    )
    return rounds_pb2.ReportEvaluationRequest(assignment_id=assignment_id, scores=message)


def _task_counts(counts: TaskCounts) -> rounds_pb2.TaskCounts:
    return rounds_pb2.TaskCounts(
        task=_TASKS[counts.task], num_examples=counts.num_examples, num_label_tokens=counts.num_label_tokens
    )


def _task_scores(scores: TaskScores) -> rounds_pb2.TaskScores:
    return rounds_pb2.TaskScores(
        task=_TASKS[scores.task],
        mean_loss=scores.mean_loss,
        num_examples=scores.num_examples,
        num_label_tokens=scores.num_label_tokens,
        strict=_f1_counts(scores.strict),
        lenient=_f1_counts(scores.lenient),
    )


def _f1_counts(counts: F1Counts | None) -> rounds_pb2.F1Counts | None:
    if counts is None:
        return None
    return rounds_pb2.F1Counts(true_positives=counts.true_positives, predicted=counts.predicted, gold=counts.gold)

"""protobuf <-> the coordinator's values, for rounds. Nothing else touches both (law 6)."""

from __future__ import annotations

from datetime import datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from common.adapter import AdapterSpec, FactorSet
from common.chunk_messages import ChunkMessage
from common.errors import InputInvalidError, Reason
from common.given_under import GivenUnder, PolicyStand, check_given_under
from common.ids import AssignmentId, Digest, check_digest
from common.rpc_errors import reason_from_proto, reason_to_proto
from common.signing import MAX_CERTIFICATE_BYTES, UpdateSignature
from common.terms import MAX_SITES, Task
from common.wire import seconds_from_proto, spec_from_proto, spec_to_proto, terms_to_proto
from coordinator.app.answers import SiteProgress
from coordinator.app.make_release import ReleaseWish
from coordinator.app.poll import Cancelled
from coordinator.app.update_intake import ReceivedChunk, UploadClaim
from coordinator.domain.admission import ClaimedUpdate
from coordinator.domain.assignments import Assignment, AssignmentKind
from coordinator.domain.values import AdapterFile, F1Score, Scores, TaskCounts, TaskScores
from fedmedlora.v1 import admin_pb2, errors_pb2, rounds_pb2, types_pb2

_STANDS = {
    rounds_pb2.POLICY_STAND_SHOWN: PolicyStand.SHOWN,
    rounds_pb2.POLICY_STAND_WITHHELD: PolicyStand.WITHHELD,
    rounds_pb2.POLICY_STAND_UNWRITTEN: PolicyStand.UNWRITTEN,
}
_FACTORS = {
    FactorSet.A_AND_B: types_pb2.FACTOR_SET_A_AND_B,
    FactorSet.A_ONLY: types_pb2.FACTOR_SET_A_ONLY,
    FactorSet.B_ONLY: types_pb2.FACTOR_SET_B_ONLY,
}
TASK_VALUES = {Task.ENTITIES: types_pb2.TASK_ENTITIES, Task.RELATIONS: types_pb2.TASK_RELATIONS}
_TASKS = {value: task for task, value in TASK_VALUES.items()}
STAGES = {
    rounds_pb2.TRAINER_STAGE_LOADING: "loading",
    rounds_pb2.TRAINER_STAGE_TRAINING: "training",
    rounds_pb2.TRAINER_STAGE_SCORING: "scoring",
    rounds_pb2.TRAINER_STAGE_WRITING: "writing",
}
# As long as the longest deadline of the terms.
LONGEST_EXTENSION_SECONDS = 30 * 86_400
# What a site may give as its reason to decline (errors.proto, 70 to 84).
_DECLINE_REASONS = range(70, 85)
# Why an agent may hold an assignment without working on it.
_HOLD_REASONS = (errors_pb2.REASON_APPROVAL_AWAITED, errors_pb2.REASON_POLICY_HOURS)


def timestamp(at: datetime) -> Timestamp:
    """A UTC time as protobuf has it."""
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def time_left(request: admin_pb2.ExtendDeadlineRequest) -> timedelta:
    """How long no open deadline shall come.

    Raises:
        InputInvalidError: FIELD_MISSING or FIELD_INVALID.
    """
    if not request.HasField("time_left"):
        raise InputInvalidError(Reason.FIELD_MISSING, "time_left: expected a duration, got none")
    seconds = seconds_from_proto(request.time_left, "time_left")
    if not 0 < seconds <= LONGEST_EXTENSION_SECONDS:
        message = f"time_left: expected above 0 and at most {LONGEST_EXTENSION_SECONDS} s, got {seconds:g} s"
        raise InputInvalidError(Reason.FIELD_INVALID, message)
    return timedelta(seconds=seconds)


def lifetime_of(request: admin_pb2.CreateJoinTokenRequest) -> timedelta:
    """How long a join token is to be good; its bounds are the use case's to check.

    Raises:
        InputInvalidError: FIELD_MISSING or FIELD_INVALID.
    """
    if not request.HasField("lifetime"):
        raise InputInvalidError(Reason.FIELD_MISSING, "lifetime: expected a duration, got none")
    return timedelta(seconds=seconds_from_proto(request.lifetime, "lifetime"))


def release_wish(request: admin_pb2.GetReleaseRequest) -> ReleaseWish:
    """What release is asked for.

    Raises:
        InputInvalidError: FIELD_INVALID.
    """
    certificates = request.certificates
    is_valid = all(each.isascii() and len(each) <= MAX_CERTIFICATE_BYTES for each in certificates)
    if len(certificates) > MAX_SITES or not is_valid:
        expected = f"expected at most {MAX_SITES} certificates in PEM, each of at most {MAX_CERTIFICATE_BYTES} bytes"
        raise InputInvalidError(Reason.FIELD_INVALID, f"certificates: {expected}")
    return ReleaseWish(
        run=request.run,
        version=request.version,
        with_updates=not request.leaves_out_updates,
        certificates=[each.decode("ascii") for each in certificates],
    )


def assignment_id_from(value: str) -> AssignmentId:
    """An assignment id is 32 hex digits; anything else is refused before it is looked up.

    Raises:
        InputInvalidError: FIELD_INVALID.
    """
    if len(value) != 32 or any(character not in "0123456789abcdef" for character in value):
        raise InputInvalidError(Reason.FIELD_INVALID, f"assignment_id: expected 32 hex digits, got {value[:40]!r}")
    return AssignmentId(value)


def adapter_ref(file: AdapterFile, spec: AdapterSpec) -> types_pb2.AdapterRef:
    """Where an adapter can be downloaded, and what it must be."""
    return types_pb2.AdapterRef(digest=file.digest, size_bytes=file.size_bytes, spec_digest=spec.digest)


def poll_answer(answer: Assignment | Cancelled | None) -> rounds_pb2.AwaitAssignmentResponse:
    """The answer to a poll."""
    match answer:
        case None:
            return rounds_pb2.AwaitAssignmentResponse(nothing_yet=rounds_pb2.NothingYet())
        case Cancelled():
            cancel = rounds_pb2.Cancel(assignment_id=answer.assignment_id, reason=reason_to_proto(answer.reason))
            return rounds_pb2.AwaitAssignmentResponse(cancel=cancel)
        case Assignment():
            return rounds_pb2.AwaitAssignmentResponse(assignment=_assignment(answer))


def _assignment(assignment: Assignment) -> rounds_pb2.Assignment:
    message = rounds_pb2.Assignment(
        assignment_id=assignment.assignment_id,
        run_id=assignment.run.run_id,
        round_number=assignment.round_number,
        terms=terms_to_proto(assignment.run.terms),
        deadline_at=timestamp(assignment.deadline_at),
    )
    spec, file = assignment.adapter_spec, assignment.adapter
    if file is None or spec is None:
        message.initialise.SetInParent()
        return message
    adapter, shape = adapter_ref(file, spec), spec_to_proto(spec)
    match assignment.kind:
        case AssignmentKind.TRAIN:
            assert assignment.plan is not None, "a strategy plans what a site trains"
            trained, uploaded = _FACTORS[assignment.plan.trained], _FACTORS[assignment.plan.uploaded]
            work = rounds_pb2.TrainWork(global_adapter=adapter, adapter_spec=shape, trained=trained, uploaded=uploaded)
            if assignment.side is not None:
                work.side_adapter.CopyFrom(adapter_ref(*assignment.side))
                work.side_spec.CopyFrom(spec_to_proto(assignment.side[1]))
            if assignment.plan.own is not None:
                work.own = _FACTORS[assignment.plan.own]
            work.asks_given_under = True
            message.train.CopyFrom(work)
        case AssignmentKind.SCORE:
            message.score.CopyFrom(rounds_pb2.ScoreWork(update=adapter, adapter_spec=shape))
        case AssignmentKind.EVALUATE:
            message.evaluate.CopyFrom(rounds_pb2.EvaluateWork(candidate=adapter, adapter_spec=shape))
    return message


def header_from(message: rounds_pb2.UploadUpdateRequest | ChunkMessage) -> rounds_pb2.UploadUpdateRequest:
    """The first message of an upload.

    Raises:
        InputInvalidError: HEADER_EXPECTED.
    """
    if isinstance(message, ChunkMessage) or message.WhichOneof("part") != "header":
        raise InputInvalidError(Reason.HEADER_EXPECTED, "upload: expected a header as the first message")
    return message


def claim_from(request: rounds_pb2.UploadUpdateRequest) -> UploadClaim:
    """What the header of an upload says.

    Raises:
        InputInvalidError: FIELD_MISSING, FIELD_INVALID, DIGEST_INVALID or SPEC_INVALID.
    """
    header = request.header
    digest = check_digest(header.digest, "header.digest")
    claim = UploadClaim(
        assignment_id=assignment_id_from(header.assignment_id), digest=digest, size_bytes=header.size_bytes
    )
    match header.WhichOneof("content"):
        case "trained":
            return _with_update(claim, header)
        case "first":
            return UploadClaim(
                assignment_id=claim.assignment_id,
                digest=digest,
                size_bytes=claim.size_bytes,
                first_spec=spec_from_proto(header.first.spec),
            )
    raise InputInvalidError(Reason.FIELD_MISSING, "header.content: expected trained or first, got neither")


def _with_update(claim: UploadClaim, header: rounds_pb2.UploadHeader) -> UploadClaim:
    trained = header.trained
    return UploadClaim(
        assignment_id=claim.assignment_id,
        digest=claim.digest,
        size_bytes=claim.size_bytes,
        signature=_signature_from(header),
        update=ClaimedUpdate(
            size_bytes=claim.size_bytes,
            base_digest=check_digest(trained.base_digest, "trained.base_digest"),
            num_examples=trained.num_examples,
            num_label_tokens=trained.num_label_tokens,
            tasks=tuple(
                TaskCounts(
                    task=_task_from(each.task, "trained.tasks"),
                    num_examples=each.num_examples,
                    num_label_tokens=each.num_label_tokens,
                )
                for each in trained.tasks
            ),
            given_under=_given_under_from(trained),
        ),
    )


def _given_under_from(trained: rounds_pb2.TrainedUpdate) -> GivenUnder | None:
    if not trained.HasField("given_under"):
        return None
    said = trained.given_under
    if said.stand not in _STANDS:
        expected = f"given_under.stand: expected a known one, got number {int(said.stand)}"
        raise InputInvalidError(Reason.FIELD_INVALID, expected)
    return check_given_under(GivenUnder(stand=_STANDS[said.stand], digest=Digest(said.digest) if said.digest else None))


def _task_from(value: types_pb2.Task.ValueType, what: str) -> Task:
    if value not in _TASKS:
        raise InputInvalidError(Reason.FIELD_INVALID, f"{what}: expected a known task, got number {int(value)}")
    return _TASKS[value]


def _signature_from(header: rounds_pb2.UploadHeader) -> UpdateSignature | None:
    if not header.HasField("signature"):
        return None
    given = header.signature
    if len(given.certificate) > MAX_CERTIFICATE_BYTES or not given.certificate.isascii():
        expected = f"expected at most {MAX_CERTIFICATE_BYTES} bytes of PEM"
        raise InputInvalidError(Reason.FIELD_INVALID, f"signature.certificate: {expected}")
    return UpdateSignature(
        signature=given.signature.hex(),
        public_key=given.public_key.hex(),
        certificate_pem=given.certificate.decode("ascii"),
    )


def chunk_from(request: rounds_pb2.UploadUpdateRequest | ChunkMessage) -> ReceivedChunk:
    """A later message of an upload.

    Raises:
        InputInvalidError: CHUNK_EXPECTED.
    """
    if isinstance(request, ChunkMessage):
        return ReceivedChunk(offset=request.offset, content=request.content)
    if request.WhichOneof("part") != "chunk":
        raise InputInvalidError(Reason.CHUNK_EXPECTED, "upload: expected a chunk after the header")
    return ReceivedChunk(offset=request.chunk.offset, content=request.chunk.content)


def decline_reason_from(value: errors_pb2.Reason.ValueType) -> Reason:
    """A site's reason to decline.

    Raises:
        InputInvalidError: FIELD_INVALID, for a reason that is not a site's to give.
    """
    if value not in _DECLINE_REASONS:
        raise InputInvalidError(
            Reason.FIELD_INVALID, f"reason: expected one of a site's own (70 to 84), got {int(value)}"
        )
    return reason_from_proto(value)


def hold_from(value: errors_pb2.Reason.ValueType) -> Reason | None:
    """Why an agent does not work on its assignment yet, if it says so.

    Raises:
        InputInvalidError: FIELD_INVALID, for a reason that holds nothing up.
    """
    if value == errors_pb2.REASON_UNSPECIFIED:
        return None
    if value not in _HOLD_REASONS:
        expected = " or ".join(str(reason_from_proto(each)) for each in _HOLD_REASONS)
        raise InputInvalidError(Reason.FIELD_INVALID, f"held_for: expected {expected}, got {int(value)}")
    return reason_from_proto(value)


def progress_from(request: rounds_pb2.ReportProgressRequest) -> SiteProgress:
    """How far a trainer is.

    Raises:
        InputInvalidError: FIELD_INVALID.
    """
    if request.stage not in STAGES:
        raise InputInvalidError(Reason.FIELD_INVALID, f"stage: expected a known one, got {int(request.stage)}")
    return SiteProgress(
        stage=STAGES[request.stage],
        step=request.step,
        steps=request.steps,
        loss=request.loss if request.HasField("loss") else None,
        tokens_per_second=request.tokens_per_second if request.HasField("tokens_per_second") else None,
    )


def scores_from(message: rounds_pb2.EvaluationScores) -> Scores:
    """An evaluator's scores; their other values are checked by `coordinator.domain.admission`.

    Raises:
        InputInvalidError: FIELD_INVALID, for an impossible duration or an unknown task; DIGEST_INVALID.
    """
    return Scores(
        mean_loss=message.mean_loss,
        num_examples=message.num_examples,
        num_label_tokens=message.num_label_tokens,
        strict=_f1_from(message.strict) if message.HasField("strict") else None,
        lenient=_f1_from(message.lenient) if message.HasField("lenient") else None,
        duration_seconds=seconds_from_proto(message.duration, "scores.duration"),
        tasks=tuple(_task_scores_from(each) for each in message.tasks),
        data_digest=check_digest(message.data_digest, "scores.data_digest") if message.data_digest else "",
    )


def _task_scores_from(message: rounds_pb2.TaskScores) -> TaskScores:
    return TaskScores(
        task=_task_from(message.task, "scores.tasks"),
        mean_loss=message.mean_loss,
        num_examples=message.num_examples,
        num_label_tokens=message.num_label_tokens,
        strict=_f1_from(message.strict) if message.HasField("strict") else None,
        lenient=_f1_from(message.lenient) if message.HasField("lenient") else None,
    )


def _f1_from(message: rounds_pb2.F1Counts) -> F1Score:
    return F1Score(true_positives=message.true_positives, predicted=message.predicted, gold=message.gold)


def download_digest_from(request: rounds_pb2.DownloadAdapterRequest) -> Digest:
    """The digest of the file asked for.

    Raises:
        InputInvalidError: DIGEST_INVALID.
    """
    return check_digest(request.digest, "digest")

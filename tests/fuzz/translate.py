"""Messages of both sides: any bytes are a value, which survives its own encoding, or an input refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from google.protobuf.message import DecodeError, Message

from common.adapter import FactorSet
from common.chunk_messages import ChunkMessage, decode_chunk, encode_chunk
from common.errors import FedMedError, Reason
from common.ids import AssignmentId
from common.rpc_errors import reason_to_proto
from common.wire import spec_from_proto, spec_to_proto, terms_from_proto, terms_to_proto
from coordinator.adapters.rpc import translate as at_coordinator
from coordinator.app.poll import Cancelled
from coordinator.domain.assignments import Assignment, AssignmentKind, for_evaluator, for_site
from coordinator.domain.values import F1Score
from fedmedlora.v1 import admin_pb2, errors_pb2, rounds_pb2, types_pb2
from site_agent.adapters import translate as at_agent
from site_agent.app.answers import (
    EvaluationScores,
    FirstAdapter,
    ReportedProgress,
    TaskScores,
    TrainedUpdate,
    UploadHeader,
)
from site_agent.app.ports import Unreadable
from site_agent.domain import assignment as agents
from site_agent.orders import F1Counts, TaskCounts, TrainerStage
from tests.fakes import coordinator_values as values
from tests.fuzz.target import Target

AN_ID = AssignmentId("0" * 32)


def parsed(kind: type[Message], content: bytes) -> Any:
    """The message in ``content``; bytes that are none are refused by gRPC before they reach this project."""
    message: Any = kind()
    message.ParseFromString(content)
    return message


def upload_header(content: bytes) -> None:
    message = parsed(rounds_pb2.UploadUpdateRequest, content)
    claim = at_coordinator.claim_from(at_coordinator.header_from(message))
    if claim.first_spec is not None:
        said: TrainedUpdate | FirstAdapter = FirstAdapter(spec=claim.first_spec)
    else:
        assert claim.update is not None
        said = TrainedUpdate(
            base_digest=claim.update.base_digest,
            num_examples=claim.update.num_examples,
            num_label_tokens=claim.update.num_label_tokens,
            mean_loss=0.0,
            tasks=tuple(
                TaskCounts(task=each.task, num_examples=each.num_examples, num_label_tokens=each.num_label_tokens)
                for each in claim.update.tasks
            ),
            given_under=claim.update.given_under,
        )
    header = UploadHeader(
        assignment_id=claim.assignment_id,
        digest=claim.digest,
        size_bytes=claim.size_bytes,
        content=said,
        signature=claim.signature,
    )
    again = at_coordinator.claim_from(at_agent.upload_header(header))
    assert again == claim


def chunk(content: bytes) -> None:
    decoded = decode_chunk(content)
    message = parsed(rounds_pb2.UploadUpdateRequest, content)
    if decoded is not None:
        assert (message.chunk.offset, message.chunk.content) == (decoded.offset, bytes(decoded.content))
        assert encode_chunk(decoded.offset, bytes(decoded.content)) == message.SerializeToString(deterministic=True)
        received = at_coordinator.chunk_from(
            ChunkMessage(**{name: getattr(decoded, name) for name in decoded.__slots__})
        )
        assert received.offset == decoded.offset
    at_coordinator.chunk_from(message)
    at_coordinator.header_from(decoded or message)


def decline(content: bytes) -> None:
    message = parsed(rounds_pb2.DeclineAssignmentRequest, content)
    at_coordinator.assignment_id_from(message.assignment_id)
    assert reason_to_proto(at_coordinator.decline_reason_from(message.reason)) == message.reason


def progress(content: bytes) -> None:
    message = parsed(rounds_pb2.ReportProgressRequest, content)
    heard = at_coordinator.progress_from(message)
    said = ReportedProgress(
        stage=TrainerStage(heard.stage),
        step=heard.step,
        steps=heard.steps,
        loss=heard.loss,
        tokens_per_second=heard.tokens_per_second,
    )
    again = at_coordinator.progress_from(at_agent.progress_request(AN_ID, said))
    assert str(again) == str(heard)  # as text, since NaN is not equal to itself


def scores(content: bytes) -> None:
    message = parsed(rounds_pb2.ReportEvaluationRequest, content)
    heard = at_coordinator.scores_from(message.scores)
    said = EvaluationScores(
        mean_loss=heard.mean_loss,
        num_examples=heard.num_examples,
        num_label_tokens=heard.num_label_tokens,
        strict=counts(heard.strict),
        lenient=counts(heard.lenient),
        seconds=0.0,
        tasks=tuple(
            TaskScores(
                task=each.task,
                mean_loss=each.mean_loss,
                num_examples=each.num_examples,
                num_label_tokens=each.num_label_tokens,
                strict=counts(each.strict),
                lenient=counts(each.lenient),
            )
            for each in heard.tasks
        ),
        data_digest=heard.data_digest,
    )
    again = at_coordinator.scores_from(at_agent.evaluation_request(AN_ID, said).scores)
    assert str(replace(again, duration_seconds=heard.duration_seconds)) == str(heard)


def counts(score: F1Score | None) -> F1Counts | None:
    """As an agent counts them."""
    if score is None:
        return None
    return F1Counts(true_positives=score.true_positives, predicted=score.predicted, gold=score.gold)


def hold(content: bytes) -> None:
    message = parsed(rounds_pb2.AwaitAssignmentRequest, content)
    reason = at_coordinator.hold_from(message.held_for)
    assert reason is None or reason_to_proto(reason) == message.held_for


def download(content: bytes) -> None:
    at_coordinator.download_digest_from(parsed(rounds_pb2.DownloadAdapterRequest, content))


def more_time(content: bytes) -> None:
    assert at_coordinator.time_left(parsed(admin_pb2.ExtendDeadlineRequest, content)).total_seconds() >= 0


def release(content: bytes) -> None:
    wish = at_coordinator.release_wish(parsed(admin_pb2.GetReleaseRequest, content))
    assert all(each.isascii() for each in wish.certificates)


def token(content: bytes) -> None:
    assert at_coordinator.lifetime_of(parsed(admin_pb2.CreateJoinTokenRequest, content)).total_seconds() >= 0


def spec(content: bytes) -> None:
    value = spec_from_proto(parsed(types_pb2.AdapterSpec, content))
    assert spec_from_proto(spec_to_proto(value)) == value


def terms(content: bytes) -> None:
    value = terms_from_proto(parsed(types_pb2.Terms, content))
    again = terms_from_proto(terms_to_proto(value))
    assert (again, again.digest) == (value, value.digest)


def what_the_coordinator_says(content: bytes) -> None:
    """An assignment in a run of these terms is read by the agent as it was meant."""
    value = terms_from_proto(parsed(types_pb2.Terms, content))
    training, scoring = values.training_run(), values.evaluating_run()
    train = for_site(training, values.ANNA)
    assert train is not None and train.plan is not None and train.adapter is not None
    side = (train.adapter, values.make_spec(modules=1))
    meant: list[Assignment | Cancelled | None] = [
        train,
        replace(train, side=side, plan=replace(train.plan, own=FactorSet.B_ONLY)),
        replace(train, kind=AssignmentKind.SCORE),
        for_evaluator(values.new_run(value), values.EVALUATOR),
        for_evaluator(scoring, values.EVALUATOR),
        Cancelled(assignment_id=AN_ID, reason=Reason.ROUND_CLOSED),
        None,
    ]
    for answer in meant:
        read = at_agent.poll_answer(at_coordinator.poll_answer(answer))
        if isinstance(answer, Assignment):
            assert isinstance(read, agents.Assignment) and read.terms == answer.run.terms
        else:
            assert (read is None) == (answer is None)


def what_the_agent_hears(content: bytes) -> None:
    read = at_agent.poll_answer(parsed(rounds_pb2.AwaitAssignmentResponse, content))
    assert read is None or isinstance(read, agents.Assignment | agents.Cancel | Unreadable)


READERS: tuple[Callable[[bytes], None], ...] = (
    upload_header,
    chunk,
    decline,
    progress,
    scores,
    download,
    more_time,
    spec,
    terms,
    what_the_coordinator_says,
    what_the_agent_hears,
    hold,
    release,
    token,
)


def run(content: bytes) -> None:
    """The first byte names the message, the others are it."""
    if not content:
        return
    try:
        READERS[content[0] % len(READERS)](content[1:])
    except (FedMedError, DecodeError):
        return


_HELD, _NONE = errors_pb2.REASON_APPROVAL_AWAITED, errors_pb2.REASON_UNSPECIFIED
_REASONS = (errors_pb2.REASON_BASE_MODEL_MISMATCH, errors_pb2.REASON_CERTIFICATE_INVALID)


def seeds() -> list[bytes]:
    """One honest message of each kind, and some that are not."""
    digest, found = "sha256:" + "0" * 64, rounds_pb2.F1Counts(true_positives=1, predicted=2, gold=3)
    message, some_terms = values.make_spec(modules=1), values.make_terms()
    header = rounds_pb2.UploadHeader(assignment_id=AN_ID, digest=digest, size_bytes=9)
    trained = rounds_pb2.TrainedUpdate(base_digest=digest, num_examples=1, num_label_tokens=2)
    trained.tasks.add(task=types_pb2.TASK_RELATIONS, num_examples=1, num_label_tokens=2)
    shown, withheld = rounds_pb2.POLICY_STAND_SHOWN, rounds_pb2.POLICY_STAND_WITHHELD
    policies = [
        rounds_pb2.TrainedUpdate(
            base_digest=digest, num_examples=1, num_label_tokens=2, given_under=rounds_pb2.GivenUnder(**said)
        )
        for said in ({"stand": shown, "digest": digest}, {"stand": withheld}, {"stand": withheld, "digest": digest}, {})
    ]
    first = rounds_pb2.FirstAdapter(spec=spec_to_proto(message))
    signature = rounds_pb2.UpdateSignature(signature=bytes(64), public_key=bytes(32), certificate=b"PEM")
    headers = [
        rounds_pb2.UploadHeader(**_fields(header), trained=trained, signature=signature),
        rounds_pb2.UploadHeader(**_fields(header), trained=trained),
        *(rounds_pb2.UploadHeader(**_fields(header), trained=each) for each in policies),
        rounds_pb2.UploadHeader(**_fields(header), first=first),
        header,
    ]
    extension = admin_pb2.ExtendDeadlineRequest(run="r")
    extension.time_left.FromSeconds(60)
    invitation = admin_pb2.CreateJoinTokenRequest(name="a")
    report = rounds_pb2.EvaluationScores(mean_loss=1, num_examples=1, num_label_tokens=2, strict=found, lenient=found)
    report.duration.FromSeconds(1)
    report.tasks.add(task=types_pb2.TASK_ENTITIES, mean_loss=1, num_examples=1, num_label_tokens=2, strict=found)
    report.data_digest = digest
    unknown = rounds_pb2.EvaluationScores(mean_loss=1, num_examples=1, num_label_tokens=2)
    unknown.tasks.add(mean_loss=1, num_examples=1, num_label_tokens=2)
    messages: list[tuple[Callable[[bytes], None], list[Message]]] = [
        (upload_header, [rounds_pb2.UploadUpdateRequest(header=each) for each in headers]),
        (decline, [rounds_pb2.DeclineAssignmentRequest(assignment_id=AN_ID, reason=reason) for reason in _REASONS]),
        (
            progress,
            [
                rounds_pb2.ReportProgressRequest(
                    assignment_id=AN_ID, stage=rounds_pb2.TRAINER_STAGE_TRAINING, step=1, steps=2, loss=1.5
                )
            ],
        ),
        (scores, [rounds_pb2.ReportEvaluationRequest(assignment_id=AN_ID, scores=each) for each in (report, unknown)]),
        (hold, [rounds_pb2.AwaitAssignmentRequest(held_for=reason) for reason in (*_REASONS, _HELD, _NONE)]),
        (download, [rounds_pb2.DownloadAdapterRequest(digest=digest, offset=1)]),
        (more_time, [extension, admin_pb2.ExtendDeadlineRequest(run="r")]),
        (release, [admin_pb2.GetReleaseRequest(run="r", certificates=each) for each in ([b"PEM"], [b"\xff"])]),
        (token, [admin_pb2.CreateJoinTokenRequest(name="a", lifetime=extension.time_left), invitation]),
        (spec, [spec_to_proto(message)]),
        (terms, [terms_to_proto(some_terms), types_pb2.Terms()]),
        (what_the_coordinator_says, [terms_to_proto(some_terms)]),
        (what_the_agent_hears, _answers()),
    ]
    whole = [_seed(reader, each.SerializeToString()) for reader, group in messages for each in group]
    chunks = [encode_chunk(0, b"x"), encode_chunk(300, b"content"), b"\x12\x00", b"\x12\x04\x08\x01\x12\x00"]
    return [*whole, *(_seed(chunk, each) for each in chunks), b""]


def _answers() -> list[Message]:
    """What a coordinator may answer to a poll."""
    training, evaluating = values.training_run(), values.evaluating_run()
    evaluate = for_evaluator(evaluating, values.EVALUATOR)
    train = for_site(training, values.ANNA)
    assert train is not None and train.plan is not None and train.adapter is not None
    side = (train.adapter, values.make_spec(modules=1))
    answers: list[Assignment | Cancelled | None] = [
        train,
        evaluate,
        for_evaluator(values.new_run(), values.EVALUATOR),
        Cancelled(assignment_id=AN_ID, reason=Reason.ROUND_CLOSED),
        None,
        replace(train, side=side, plan=replace(train.plan, own=FactorSet.B_ONLY)),
    ]
    messages: list[Any] = [at_coordinator.poll_answer(answer) for answer in answers]
    score = rounds_pb2.AwaitAssignmentResponse()
    score.CopyFrom(messages[1])
    work = score.assignment.evaluate
    score.assignment.score.CopyFrom(rounds_pb2.ScoreWork(update=work.candidate, adapter_spec=work.adapter_spec))
    unknown = rounds_pb2.AwaitAssignmentResponse()
    unknown.CopyFrom(messages[3])
    setattr(unknown.cancel, "reason", 9999)  # noqa: B010  (a later version's)
    return [*messages, score, unknown]


def _fields(header: rounds_pb2.UploadHeader) -> dict[str, Any]:
    return {field.name: value for field, value in header.ListFields()}


def _seed(reader: Callable[[bytes], None], content: bytes) -> bytes:
    return bytes((READERS.index(reader),)) + content


TARGET = Target(
    modules=(
        "common.chunk_messages",
        "common.wire",
        "coordinator.adapters.rpc.translate",
        "site_agent.adapters.translate",
    ),
    run=run,
    seeds=seeds,
)

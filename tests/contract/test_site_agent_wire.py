"""protobuf <-> the agent's values: what a coordinator may send is read, all else is refused, nothing is added."""

from __future__ import annotations

import pytest
from google.protobuf.message import Message

from common.adapter import FactorSet
from common.errors import InputInvalidError, Reason
from common.given_under import GivenUnder, PolicyStand
from common.ids import AssignmentId
from common.rpc_errors import reason_to_proto
from common.terms import Task
from fedmedlora.v1 import errors_pb2, rounds_pb2, types_pb2
from site_agent.adapters import translate
from site_agent.app.answers import (
    EvaluationScores,
    FirstAdapter,
    ReportedProgress,
    TaskScores,
    TrainedUpdate,
    UploadHeader,
    metric_names,
)
from site_agent.app.ports import Unreadable
from site_agent.domain.assignment import Assignment, Cancel, EvaluateWork, InitialiseWork, ScoreWork, TrainWork
from site_agent.domain.egress import EVALUATION_METRICS, PROGRESS_METRICS, UPDATE_METRICS
from site_agent.orders import F1Counts, TaskCounts, TrainerStage
from tests.fakes.coordinator import file_ref, make_offer, train_work
from tests.fakes.site_values import digest, make_spec, make_terms

SPEC = make_spec()
CONTENT = b"content of an adapter"
ID = AssignmentId(f"{1:032x}")


def read(offer: rounds_pb2.Assignment) -> Assignment | Unreadable | Cancel | None:
    return translate.poll_answer(rounds_pb2.AwaitAssignmentResponse(assignment=offer))


def fields_of(message: type[Message]) -> set[str]:
    """Names of its fields; those of a part are named after it, as the egress check names them."""
    names = set(message.DESCRIPTOR.fields_by_name)
    for whole in ("tasks", "given_under"):
        part = message.DESCRIPTOR.fields_by_name.get(whole)
        if part is not None and part.message_type is not None:
            names = names - {whole} | {f"{whole}.{name}" for name in part.message_type.fields_by_name}
    return names


def test_a_train_assignment_is_read_whole() -> None:
    offer = make_offer(1, make_terms(), train=train_work(SPEC, CONTENT))
    offer.train.uploaded = types_pb2.FACTOR_SET_B_ONLY
    offer.deadline_at.FromMilliseconds(1500)
    assignment = read(offer)
    assert isinstance(assignment, Assignment)
    assert isinstance(assignment.work, TrainWork)
    assert (assignment.assignment_id, assignment.round_number, assignment.deadline_at) == (ID, 1, 1.5)
    assert (assignment.terms, assignment.terms.digest) == (make_terms(), make_terms().digest)
    assert (assignment.work.trained, assignment.work.uploaded) == (FactorSet.A_AND_B, FactorSet.B_ONLY)
    assert assignment.work.adapter_spec == SPEC
    assert assignment.work.global_adapter.size_bytes == len(CONTENT)


@pytest.mark.parametrize(
    ("work", "kind"),
    [
        ({"initialise": rounds_pb2.InitialiseWork()}, InitialiseWork),
        (
            {
                "evaluate": rounds_pb2.EvaluateWork(
                    candidate=file_ref(SPEC, CONTENT), adapter_spec=train_work(SPEC, CONTENT).adapter_spec
                )
            },
            EvaluateWork,
        ),
        (
            {
                "score": rounds_pb2.ScoreWork(
                    update=file_ref(SPEC, CONTENT), adapter_spec=train_work(SPEC, CONTENT).adapter_spec
                )
            },
            ScoreWork,
        ),
    ],
)
def test_the_other_kinds_of_work_are_read(work: dict[str, Message], kind: type) -> None:
    assignment = read(make_offer(1, make_terms(), **work))
    assert isinstance(assignment, Assignment)
    assert isinstance(assignment.work, kind)


@pytest.mark.parametrize("assignment_id", ["", "../../etc/passwd", "0" * 31, "G" * 32, "0" * 32 + "\n"])
def test_an_id_that_could_be_a_path_is_refused(assignment_id: str) -> None:
    offer = make_offer(1, make_terms(), initialise=rounds_pb2.InitialiseWork())
    offer.assignment_id = assignment_id
    with pytest.raises(InputInvalidError, match="assignment_id: expected 32 hex digits"):
        read(offer)


def test_an_assignment_without_known_work_can_be_declined() -> None:
    answer = read(make_offer(1, make_terms()))
    assert answer == Unreadable(assignment_id=ID, detail="work: expected a known kind of work, got none")


@pytest.mark.parametrize("factors", [0, 77])
def test_factors_that_this_version_does_not_know_are_not_guessed(factors: int) -> None:
    offer = make_offer(1, make_terms(), train=train_work(SPEC, CONTENT))
    offer.train.uploaded = factors  # type: ignore[assignment]
    answer = read(offer)
    assert isinstance(answer, Unreadable)
    assert answer.detail.startswith("train.uploaded: expected a known set of factors")


@pytest.mark.parametrize(
    ("number", "reason"),
    [(reason_to_proto(Reason.ABORTED_BY_OPERATOR), Reason.ABORTED_BY_OPERATOR), (9999, Reason.ROUND_CLOSED)],
)
def test_a_cancel_counts_whatever_its_reason(number: errors_pb2.Reason.ValueType, reason: Reason) -> None:
    cancel = rounds_pb2.Cancel(assignment_id=ID, reason=number)
    answer = translate.poll_answer(rounds_pb2.AwaitAssignmentResponse(cancel=cancel))
    assert answer == Cancel(assignment_id=ID, reason=reason)


@pytest.mark.parametrize(
    "message",
    [rounds_pb2.AwaitAssignmentResponse(nothing_yet=rounds_pb2.NothingYet()), rounds_pb2.AwaitAssignmentResponse()],
)
def test_an_answer_without_an_outcome_is_nothing_yet(message: rounds_pb2.AwaitAssignmentResponse) -> None:
    assert translate.poll_answer(message) is None


def test_the_header_of_an_update_holds_its_counts() -> None:
    update = TrainedUpdate(base_digest=digest("base"), num_examples=3, num_label_tokens=9, mean_loss=0.5)
    header = UploadHeader(assignment_id=ID, digest=digest("file"), size_bytes=100, content=update)
    message = translate.upload_header(header).header
    assert message == rounds_pb2.UploadHeader(
        assignment_id=ID,
        digest=digest("file"),
        size_bytes=100,
        trained=rounds_pb2.TrainedUpdate(base_digest=digest("base"), num_examples=3, num_label_tokens=9, mean_loss=0.5),
    )


def test_the_header_of_a_first_adapter_holds_its_specification() -> None:
    header = UploadHeader(assignment_id=ID, digest=digest("file"), size_bytes=100, content=FirstAdapter(spec=SPEC))
    assert translate.upload_header(header).header.first.spec == train_work(SPEC, CONTENT).adapter_spec


def test_scores_that_were_not_measured_are_absent() -> None:
    scores = EvaluationScores(
        mean_loss=0.5,
        num_examples=3,
        num_label_tokens=9,
        strict=F1Counts(true_positives=1, predicted=2, gold=3),
        lenient=None,
        seconds=1.25,
    )
    message = translate.evaluation_request(ID, scores).scores
    assert (message.HasField("strict"), message.HasField("lenient")) == (True, False)
    assert (message.strict.gold, message.duration.ToMilliseconds()) == (3, 1250)


@pytest.mark.parametrize("stage", list(TrainerStage))
def test_every_stage_of_the_trainer_has_its_name_on_the_wire(stage: TrainerStage) -> None:
    progress = ReportedProgress(stage=stage, step=1, steps=2, loss=None, tokens_per_second=None)
    message = translate.progress_request(ID, progress)
    assert rounds_pb2.TrainerStage.Name(message.stage) == f"TRAINER_STAGE_{stage.name}"
    assert not message.HasField("loss")


def test_the_wire_has_no_metric_that_the_egress_check_does_not_know() -> None:
    assert fields_of(rounds_pb2.TrainedUpdate) - {"base_digest"} == UPDATE_METRICS
    assert fields_of(rounds_pb2.ReportProgressRequest) - {"assignment_id"} == PROGRESS_METRICS
    assert fields_of(rounds_pb2.EvaluationScores) - {"duration"} == EVALUATION_METRICS - {"seconds"}


def test_counts_and_scores_of_each_task_go_on_the_wire_as_they_are() -> None:
    counts = TaskCounts(task=Task.RELATIONS, num_examples=3, num_label_tokens=9)
    update = TrainedUpdate(
        base_digest=digest("base"),
        num_examples=3,
        num_label_tokens=9,
        mean_loss=0.5,
        tasks=(counts,),
        given_under=GivenUnder(stand=PolicyStand.WITHHELD),
    )
    header = UploadHeader(assignment_id=ID, digest=digest("file"), size_bytes=4, content=update)
    (sent,) = translate.upload_header(header).header.trained.tasks
    assert (sent.task, sent.num_examples, sent.num_label_tokens) == (types_pb2.TASK_RELATIONS, 3, 9)
    part = TaskScores(
        task=Task.RELATIONS,
        mean_loss=0.25,
        num_examples=3,
        num_label_tokens=9,
        strict=F1Counts(true_positives=1, predicted=2, gold=3),
        lenient=None,
    )
    scores = EvaluationScores(
        mean_loss=0.5,
        num_examples=3,
        num_label_tokens=9,
        strict=None,
        lenient=None,
        seconds=1.0,
        tasks=(part,),
        data_digest=digest("set"),
    )
    message = translate.evaluation_request(ID, scores).scores
    assert message.data_digest == digest("set")
    assert message.tasks[0].strict.gold == 3
    assert (message.tasks[0].mean_loss, message.tasks[0].HasField("lenient")) == (0.25, False)
    assert metric_names(scores) == EVALUATION_METRICS
    assert metric_names(update) == UPDATE_METRICS

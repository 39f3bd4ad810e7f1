"""Every string of every request as a path, a format, a control sequence or a novel: refused, and no file appears."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.hostile.scene import CALL_SECONDS, Scene, refusal_of  # isort: skip  (hardens TLS first)

from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from common.ids import digest_of
from common.tls import Role
from common.wire import spec_to_proto, terms_to_proto
from coordinator.adapters.rpc.access import ROLES_BY_RPC
from fedmedlora.v1 import admin_pb2, enrolment_pb2, registry_pb2, rounds_pb2
from tests.fakes.coordinator_values import make_spec, make_terms

PATH = "../../../../tmp/fedmed-was-here"
STRINGS = (PATH, "/etc/passwd", "a\x00b", "%s%n{0}${HOME}$(id)", "\x1b[2J\x1b]0;owned\x07", "é" * 200_000)
# Words of a run's terms that are only ever shown, or compared with a site's own: printable ones are taken.
SHOWN = {"terms.base_model.name", "terms.lora.target_modules", "terms.task.entity_types", "terms.task.relation_types"}
PROTOS = (rounds_pb2, admin_pb2, registry_pb2, enrolment_pb2)
METHODS = {
    f"/{service.full_name}/{method.name}": method
    for proto in PROTOS
    for service in proto.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if f"/{service.full_name}/{method.name}" in ROLES_BY_RPC  # Enrol has a port, and tests, of its own
}


def strings_of(message: Message, path: str = "") -> Iterator[tuple[str, Message, FieldDescriptor]]:
    """Every string field that is set somewhere in ``message``, with the message that holds it."""
    for field, value in message.ListFields():
        where = f"{path}{field.name}"
        if field.type == FieldDescriptor.TYPE_STRING:
            yield where, message, field
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for part in value if field.is_repeated else [value]:
                yield from strings_of(part, f"{where}.")


def filled(method: MethodDescriptor) -> list[Message]:
    """Requests of ``method`` in which every string is set: one for each kind of content that a ``oneof`` offers."""
    kind = GetMessageClass(method.input_type)
    if method.name == "CreateRun":
        terms = make_terms()
        related = replace(terms.task, relation_types=("hasAttr",))
        tested = replace(terms.gate, test_digest=digest_of(b"test set"))
        return [admin_pb2.CreateRunRequest(terms=terms_to_proto(replace(terms, task=related, gate=tested)))]
    if method.name == "UploadUpdate":
        trained = rounds_pb2.TrainedUpdate(base_digest="b", num_examples=1, num_label_tokens=1)
        trained.given_under.stand, trained.given_under.digest = rounds_pb2.POLICY_STAND_SHOWN, "d"
        first = rounds_pb2.FirstAdapter(spec=spec_to_proto(make_spec(modules=1)))
        headers = [rounds_pb2.UploadHeader(trained=trained), rounds_pb2.UploadHeader(first=first)]
        for header in headers:
            header.assignment_id, header.digest, header.size_bytes = "0" * 32, "sha256:" + "0" * 64, 8
        return [rounds_pb2.UploadUpdateRequest(header=header) for header in headers]
    if method.name == "ReportEvaluation":
        scores = rounds_pb2.EvaluationScores(mean_loss=1, num_examples=1, num_label_tokens=1, data_digest="d")
        return [rounds_pb2.ReportEvaluationRequest(assignment_id="0" * 32, scores=scores)]
    request = kind()
    for field in method.input_type.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            setattr(request, field.name, "0" * 32)
    return [request]


def with_string(request: Message, index: int, text: str) -> Message:
    """A copy of ``request`` whose string number ``index`` is ``text``."""
    copy = type(request)()
    copy.CopyFrom(request)
    _, holder, field = list(strings_of(copy))[index]
    if field.is_repeated:
        getattr(holder, field.name)[0] = text
    else:
        setattr(holder, field.name, text)
    return copy


CASES = [
    pytest.param(rpc, request, index, id=f"{method.name}-{where}")
    for rpc, method in METHODS.items()
    for request in filled(method)
    for index, (where, _, _) in enumerate(strings_of(request))
]


@pytest.fixture(scope="module")
def calls(scene: Scene) -> Iterator[dict[Role, Any]]:
    """A channel for each role, for all calls."""
    channels = {role: scene.channel("caller", role) for role in Role}
    yield channels
    for channel in channels.values():
        channel.close()


def ask(channel: Any, rpc: str, request: Message) -> object:
    """Call ``rpc``, whatever its kind."""
    method, content = METHODS[rpc], request.SerializeToString()
    if method.client_streaming:
        return channel.stream_unary(rpc)(iter([content]), timeout=CALL_SECONDS)
    if method.server_streaming:
        return list(channel.unary_stream(rpc)(content, timeout=CALL_SECONDS))
    return channel.unary_unary(rpc)(content, timeout=CALL_SECONDS)


@pytest.mark.parametrize(("rpc", "request_", "index"), CASES)
def test_a_string_that_is_no_name_is_refused(
    scene: Scene, calls: dict[Role, Any], rpc: str, request_: Message, index: int
) -> None:
    channel = calls[min(ROLES_BY_RPC[rpc])]
    files, where = files_of(scene), list(strings_of(request_))[index][0]
    for text in STRINGS:
        if where in SHOWN and text.isprintable() and len(text) < 100:
            continue
        hostile = with_string(request_, index, text)
        reason = refusal_of(partial(ask, channel, rpc, hostile))
        assert reason not in {"INTERNAL", "UNKNOWN", "DEADLINE_EXCEEDED", "UNAVAILABLE"}
    assert files_of(scene) == files and not Path("/tmp/fedmed-was-here").exists()


def test_every_string_of_every_request_is_among_the_cases() -> None:
    """A string field that `filled` leaves empty would not be attacked; base-model names and preset texts are free."""
    asked = {(holder.DESCRIPTOR.full_name, field.name) for case in CASES for _, holder, field in _strings(case)}
    known = {key for method in METHODS.values() for key in _declared(method.input_type, set())}
    assert known - asked == set()


def test_no_fault_of_the_coordinator_came_of_it(guarded: Scene) -> None:
    assert guarded.faults() == 0


def files_of(scene: Scene) -> set[Path]:
    """All files of the coordinator but the database's own."""
    return {path for path in scene.coordinator.state.rglob("*") if "sqlite" not in path.name}


def _strings(case: Any) -> Iterator[tuple[str, Message, FieldDescriptor]]:
    return strings_of(case.values[1])


def _declared(message: Any, seen: set[str]) -> Iterator[tuple[str, str]]:
    if message.full_name in seen or message.file.package != "fedmedlora.v1":
        return
    seen.add(message.full_name)
    for field in message.fields:
        if field.type == FieldDescriptor.TYPE_STRING:
            yield message.full_name, field.name
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            yield from _declared(field.message_type, seen)

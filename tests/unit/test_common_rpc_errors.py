from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc.aio import AioRpcError, Metadata

from common import errors
from common.errors import FedMedError, InputInvalidError, Reason, UnavailableError
from common.rpc_errors import (
    MAX_MESSAGE_LENGTH,
    from_rpc_error,
    internal_error,
    reason_from_proto,
    reason_to_proto,
    to_status,
)
from fedmedlora.v1 import errors_pb2

CLASSES = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FedMedError)]


def as_received(status: grpc.Status) -> AioRpcError:
    return AioRpcError(status.code, Metadata(), Metadata(*(status.trailing_metadata or ())), status.details)


def bare(code: grpc.StatusCode, details: str = "") -> AioRpcError:
    return AioRpcError(code, Metadata(), Metadata(), details)


def rich(code: grpc.StatusCode, reason: str, domain: str) -> AioRpcError:
    status = status_pb2.Status(code=code.value[0], message="m")
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=reason, domain=domain))
    trailer = ("grpc-status-details-bin", status.SerializeToString())
    return AioRpcError(code, Metadata(), Metadata(trailer), "m")


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("reason", [Reason.UPDATE_NOT_FINITE, Reason.INTERNAL])
def test_an_error_crosses_the_wire_as_itself(kind: type[FedMedError], reason: Reason) -> None:
    received = from_rpc_error(as_received(to_status(kind(reason, "expected 1, got 2"))))
    assert (type(received), received.reason, received.message) == (kind, reason, "expected 1, got 2")
    assert received.retryable is kind.retryable


def test_each_class_has_a_status_of_its_own() -> None:
    codes = [to_status(kind(Reason.INTERNAL, "")).code for kind in CLASSES]
    assert len(set(codes)) == len(CLASSES) == 10


@pytest.mark.parametrize("code", ["UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED"])
def test_a_peer_that_went_away_is_worth_another_try(code: str) -> None:
    error = from_rpc_error(bare(grpc.StatusCode[code]))
    assert isinstance(error, UnavailableError) and error.reason is Reason.PEER_AWAY and error.retryable


@pytest.mark.parametrize("code", ["UNKNOWN", "UNIMPLEMENTED", "INTERNAL", "RESOURCE_EXHAUSTED", "INVALID_ARGUMENT"])
def test_a_status_without_our_reason_is_not_taken_for_one_of_ours(code: str) -> None:
    error = from_rpc_error(bare(grpc.StatusCode[code], "what"))
    assert (type(error), error.reason, error.message) == (FedMedError, Reason.INTERNAL, f"{code}: what")


def test_a_reason_of_a_later_version_keeps_its_class() -> None:
    error = from_rpc_error(rich(grpc.StatusCode.INVALID_ARGUMENT, "NOT_YET_INVENTED", "fedmedlora"))
    assert (type(error), error.reason) == (InputInvalidError, Reason.INTERNAL)


def test_a_reason_of_another_domain_is_not_ours() -> None:
    error = from_rpc_error(rich(grpc.StatusCode.INVALID_ARGUMENT, "FIELD_INVALID", "example.org"))
    assert (type(error), error.reason) == (FedMedError, Reason.INTERNAL)


def test_broken_details_are_ignored() -> None:
    trailer = ("grpc-status-details-bin", b"\xff\xff\xff")
    error = from_rpc_error(AioRpcError(grpc.StatusCode.UNAVAILABLE, Metadata(), Metadata(trailer), "gone"))
    assert error.reason is Reason.PEER_AWAY


def test_a_peers_message_is_cut_and_holds_no_control_characters() -> None:
    error = from_rpc_error(bare(grpc.StatusCode.UNKNOWN, "\x1b[31mred\n" + "x" * 10_000))
    assert len(error.message) == MAX_MESSAGE_LENGTH
    assert error.message.isprintable() and error.message.endswith("...")


def test_a_long_message_is_cut_before_it_is_sent() -> None:
    status = to_status(InputInvalidError(Reason.TERMS_INVALID, "y" * 10_000))
    trailers = sum(len(key) + len(value) for key, value in status.trailing_metadata)
    # gRPC ends a call whose metadata is above 8 KiB; the message is in there twice, once in base64.
    assert len(status.details) == MAX_MESSAGE_LENGTH and trailers * 4 / 3 + MAX_MESSAGE_LENGTH < 8192


def test_a_fault_tells_the_peer_an_id_and_nothing_else() -> None:
    status = to_status(internal_error("4f2a"))
    assert (status.code, status.details) == (grpc.StatusCode.INTERNAL, "internal error 4f2a")


def proto_names() -> Iterator[str]:
    return (value.name.removeprefix("REASON_") for value in errors_pb2.Reason.DESCRIPTOR.values if value.number)


def test_reasons_are_those_of_the_proto() -> None:
    assert {reason.value for reason in Reason} == set(proto_names())


@pytest.mark.parametrize("reason", Reason)
def test_a_reason_survives_its_number(reason: Reason) -> None:
    assert reason.name == reason.value
    assert reason_from_proto(reason_to_proto(reason)) is reason


@pytest.mark.parametrize("number", [0, 9999, -1])
def test_a_number_that_is_no_reason_is_refused_by_field(number: int) -> None:
    with pytest.raises(InputInvalidError, match=r"decline\.reason") as caught:
        reason_from_proto(number, "decline.reason")
    assert caught.value.reason is Reason.FIELD_INVALID

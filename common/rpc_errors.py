"""The one table between errors and gRPC statuses, read in both directions. Decides nothing about what went wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Never

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from common.errors import (
    FedMedError,
    InputInvalidError,
    NotAllowedError,
    NotFoundError,
    NotNowError,
    OverloadedError,
    Reason,
    TransferBrokenError,
    UnauthenticatedError,
    UnavailableError,
    UpdateRefusedError,
)
from fedmedlora.v1 import errors_pb2

if TYPE_CHECKING:
    from grpc.aio import AioRpcError, ServicerContext

ERROR_DOMAIN = "fedmedlora"
# gRPC puts messages into trailers, which both ends bound to 8 KiB (grpc.max_metadata_size).
MAX_MESSAGE_LENGTH = 1_000
_DETAILS_KEY = "grpc-status-details-bin"
_REASON_PREFIX = "REASON_"

# The statuses' meanings: https://github.com/grpc/grpc/blob/master/doc/statuscodes.md. A content outside its
# specification is OUT_OF_RANGE, so that it stays apart from a request of the wrong shape.
_CODES: dict[type[FedMedError], grpc.StatusCode] = {
    InputInvalidError: grpc.StatusCode.INVALID_ARGUMENT,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    NotAllowedError: grpc.StatusCode.PERMISSION_DENIED,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    NotNowError: grpc.StatusCode.FAILED_PRECONDITION,
    UpdateRefusedError: grpc.StatusCode.OUT_OF_RANGE,
    TransferBrokenError: grpc.StatusCode.ABORTED,
    OverloadedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
    FedMedError: grpc.StatusCode.INTERNAL,
}
_CLASSES = {code: kind for kind, code in _CODES.items()}
# What gRPC itself says when the other side went away: never answered, in time, or cut off while it shut down.
_AWAY = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}


def internal_error(error_id: str) -> FedMedError:
    """What a peer is told of a fault of ours: an id to look for in the log, and nothing else."""
    return FedMedError(Reason.INTERNAL, f"internal error {error_id}")


def to_status(error: FedMedError) -> grpc.Status:
    """The status that tells a peer of ``error``; its reason travels as google.rpc.ErrorInfo."""
    rich = status_pb2.Status(code=_CODES[type(error)].value[0], message=_bounded(error.message))
    rich.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.reason.value, domain=ERROR_DOMAIN))
    return rpc_status.to_status(rich)


async def abort_with(context: ServicerContext[Any, Any], error: FedMedError) -> Never:
    """End the rpc with ``error``; raises grpc's own AbortError, which must be let through."""
    status = to_status(error)
    await context.abort(status.code, status.details, status.trailing_metadata)
    raise AssertionError("abort always raises")


def from_rpc_error(error: AioRpcError) -> FedMedError:
    """The error that the peer meant. Its text is cut, and control characters are taken out.

    The class comes from the status, so it is right even for a reason that this version does not know (which becomes
    INTERNAL). A status without our ErrorInfo comes from gRPC itself: PEER_AWAY, or INTERNAL.
    """
    code = error.code()
    reason = _reason_in(error)
    if reason is not None:
        return _CLASSES.get(code, FedMedError)(reason, _bounded(error.details() or ""))
    if code in _AWAY:
        return UnavailableError(Reason.PEER_AWAY, _bounded(f"{code.name}: {error.details()}"))
    return FedMedError(Reason.INTERNAL, _bounded(f"{code.name}: {error.details()}"))


def _reason_in(error: AioRpcError) -> Reason | None:
    rich = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY:
            try:
                rich.ParseFromString(value if isinstance(value, bytes) else value.encode())
            except DecodeError:
                return None
    detail = error_details_pb2.ErrorInfo()
    for packed in rich.details:
        if packed.Unpack(detail) and detail.domain == ERROR_DOMAIN:
            return Reason(detail.reason) if detail.reason in Reason.__members__ else Reason.INTERNAL
    return None


def _bounded(message: str) -> str:
    printable = "".join(character if character.isprintable() else " " for character in message)
    return printable if len(printable) <= MAX_MESSAGE_LENGTH else printable[: MAX_MESSAGE_LENGTH - 3] + "..."


def reason_to_proto(reason: Reason) -> errors_pb2.Reason.ValueType:
    """The proto's value of the same name."""
    return errors_pb2.Reason.Value(_REASON_PREFIX + reason.value)


def reason_from_proto(value: int, what: str = "reason") -> Reason:
    """The reason of the same name as the proto's ``value``.

    Raises:
        InputInvalidError: FIELD_INVALID, when the field ``what`` holds no reason, or one of a later version.
    """
    names = errors_pb2.Reason.DESCRIPTOR.values_by_number
    name = names[value].name.removeprefix(_REASON_PREFIX) if value in names else ""
    if name not in Reason.__members__:
        raise InputInvalidError(Reason.FIELD_INVALID, f"{what}: expected a known reason, got {value}")
    return Reason(name)

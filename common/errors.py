"""The tree of errors that may cross a boundary. It knows nothing of gRPC; `common.rpc_errors` holds that table.

::

    FedMedError                  retryable   raised when (itself: a fault, INTERNAL, which may pass)
    ├── InputInvalidError        no          a value is not what the contract says
    ├── UnauthenticatedError     yes         the caller's certificate names nobody we know how to read
    ├── NotAllowedError          no          the caller is known and may not do this
    ├── NotFoundError            no          the thing named does not exist (for this caller)
    ├── NotNowError              no          valid, but not in this state: late, stale, already decided
    ├── UpdateRefusedError       no          an update was read whole and refused for what it holds
    ├── TransferBrokenError      yes         bytes were lost on the way: ask for the offset, go on from there
    ├── OverloadedError          yes         a limit of disk, memory or rate; later it may fit
    └── UnavailableError         yes         the other side is away
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Reason(StrEnum):
    """Why something was refused or failed; one value for each thing a peer can act on.

    The names are those of ``fedmedlora.v1.Reason`` without its prefix; a test keeps them equal.
    """

    # shape of a request
    NAME_INVALID = "NAME_INVALID"
    DIGEST_INVALID = "DIGEST_INVALID"
    FIELD_MISSING = "FIELD_MISSING"
    FIELD_INVALID = "FIELD_INVALID"
    TERMS_INVALID = "TERMS_INVALID"
    CONFIG_INVALID = "CONFIG_INVALID"
    HEADER_EXPECTED = "HEADER_EXPECTED"
    CHUNK_EXPECTED = "CHUNK_EXPECTED"
    CHUNK_TOO_LARGE = "CHUNK_TOO_LARGE"
    # how one becomes, and stays, a member
    TOKEN_UNKNOWN = "TOKEN_UNKNOWN"  # noqa: S105 - no password
    TOKEN_SPENT = "TOKEN_SPENT"  # noqa: S105 - no password
    TOKEN_EXPIRED = "TOKEN_EXPIRED"  # noqa: S105 - no password
    TOKEN_NAME_DIFFERS = "TOKEN_NAME_DIFFERS"  # noqa: S105 - no password
    SIGNING_REQUEST_INVALID = "SIGNING_REQUEST_INVALID"
    NOT_ISSUING = "NOT_ISSUING"
    TOO_MANY_ATTEMPTS = "TOO_MANY_ATTEMPTS"
    SITE_UNKNOWN = "SITE_UNKNOWN"
    SIGNING_KEY_DIFFERS = "SIGNING_KEY_DIFFERS"
    # who asks
    CERTIFICATE_INVALID = "CERTIFICATE_INVALID"
    ROLE_NOT_ALLOWED = "ROLE_NOT_ALLOWED"
    ASSIGNMENT_NOT_YOURS = "ASSIGNMENT_NOT_YOURS"
    SITE_BANNED = "SITE_BANNED"
    SITE_WITHDRAWN = "SITE_WITHDRAWN"
    CERTIFICATE_REVOKED = "CERTIFICATE_REVOKED"
    # what is asked for
    RUN_UNKNOWN = "RUN_UNKNOWN"
    ADAPTER_UNKNOWN = "ADAPTER_UNKNOWN"
    ASSIGNMENT_UNKNOWN = "ASSIGNMENT_UNKNOWN"
    # not in this state
    RUN_EXISTS = "RUN_EXISTS"
    RUN_ENDED = "RUN_ENDED"
    ROUND_CLOSED = "ROUND_CLOSED"
    ALREADY_ANSWERED = "ALREADY_ANSWERED"
    RELEASE_KEY_MISSING = "RELEASE_KEY_MISSING"
    # an update's content
    UPDATE_TOO_LARGE = "UPDATE_TOO_LARGE"
    UPDATE_NOT_SAFETENSORS = "UPDATE_NOT_SAFETENSORS"
    UPDATE_HEADER_TOO_LARGE = "UPDATE_HEADER_TOO_LARGE"
    UPDATE_TRUNCATED = "UPDATE_TRUNCATED"
    UPDATE_TENSORS_DIFFER = "UPDATE_TENSORS_DIFFER"
    UPDATE_SHAPE_DIFFERS = "UPDATE_SHAPE_DIFFERS"
    UPDATE_DTYPE_DIFFERS = "UPDATE_DTYPE_DIFFERS"
    UPDATE_NOT_FINITE = "UPDATE_NOT_FINITE"
    UPDATE_COUNT_ABSURD = "UPDATE_COUNT_ABSURD"
    UPDATE_BASE_DIFFERS = "UPDATE_BASE_DIFFERS"
    SPEC_INVALID = "SPEC_INVALID"
    # an evaluation's content
    METRIC_NOT_FINITE = "METRIC_NOT_FINITE"
    METRIC_MISSING = "METRIC_MISSING"
    # an update's signature
    SIGNATURE_MISSING = "SIGNATURE_MISSING"
    SIGNATURE_INVALID = "SIGNATURE_INVALID"
    SIGNING_KEY_UNKNOWN = "SIGNING_KEY_UNKNOWN"
    SIGNING_KEY_REVOKED = "SIGNING_KEY_REVOKED"
    # a site's own reasons to decline
    BASE_MODEL_MISMATCH = "BASE_MODEL_MISMATCH"
    BASE_MODEL_UNREADABLE = "BASE_MODEL_UNREADABLE"
    NOTES_INVALID = "NOTES_INVALID"
    NOTES_TOO_FEW = "NOTES_TOO_FEW"
    OUT_OF_MEMORY = "OUT_OF_MEMORY"
    DEVICE_UNAVAILABLE = "DEVICE_UNAVAILABLE"
    LOSS_NOT_FINITE = "LOSS_NOT_FINITE"
    SETTINGS_UNSUPPORTED = "SETTINGS_UNSUPPORTED"
    TRAINER_CRASHED = "TRAINER_CRASHED"
    EGRESS_DENIED = "EGRESS_DENIED"
    APPROVAL_AWAITED = "APPROVAL_AWAITED"
    APPROVAL_DECLINED = "APPROVAL_DECLINED"
    POLICY_FORBIDS = "POLICY_FORBIDS"
    POLICY_HOURS = "POLICY_HOURS"
    POLICY_TOO_FEW_EXAMPLES = "POLICY_TOO_FEW_EXAMPLES"
    # a site's own ledger of what leaves it
    LEDGER_UNWRITABLE = "LEDGER_UNWRITABLE"
    LEDGER_BROKEN = "LEDGER_BROKEN"
    # transfer
    OFFSET_DIFFERS = "OFFSET_DIFFERS"
    DIGEST_DIFFERS = "DIGEST_DIFFERS"
    STREAM_ENDED_EARLY = "STREAM_ENDED_EARLY"
    STREAM_TOO_SLOW = "STREAM_TOO_SLOW"
    # the coordinator's own state
    DISK_FULL = "DISK_FULL"
    TOO_MANY_STREAMS = "TOO_MANY_STREAMS"
    PEER_AWAY = "PEER_AWAY"
    STORE_IN_USE = "STORE_IN_USE"
    STORE_AWAY = "STORE_AWAY"
    INTERNAL = "INTERNAL"
    # how a round ends early
    QUORUM_IMPOSSIBLE = "QUORUM_IMPOSSIBLE"
    QUORUM_NOT_REACHED = "QUORUM_NOT_REACHED"
    EVALUATOR_ABSENT = "EVALUATOR_ABSENT"
    NO_EVALUATOR_LEFT = "NO_EVALUATOR_LEFT"
    AGGREGATION_FAILED = "AGGREGATION_FAILED"
    ABORTED_BY_OPERATOR = "ABORTED_BY_OPERATOR"


class FedMedError(Exception):
    """An error with a reason. The message says expected against got, never a tensor value or text of a record."""

    # Whether the same request may get another answer later; else it is a clear no.
    retryable: ClassVar[bool] = True

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


class InputInvalidError(FedMedError):
    """A value is not what the contract says."""

    retryable: ClassVar[bool] = False


class UnauthenticatedError(FedMedError):
    """The caller's certificate names nobody we know how to read; it may be renewed meanwhile."""


class NotAllowedError(FedMedError):
    """The caller is known and may not do this."""

    retryable: ClassVar[bool] = False


class NotFoundError(FedMedError):
    """The thing named does not exist, or not for this caller."""

    retryable: ClassVar[bool] = False


class NotNowError(FedMedError):
    """The request is valid, but not in this state."""

    retryable: ClassVar[bool] = False


class UpdateRefusedError(FedMedError):
    """An update was read whole and refused for what it holds."""

    retryable: ClassVar[bool] = False


class TransferBrokenError(FedMedError):
    """Bytes were lost on the way; the sender asks for the offset and goes on from there."""


class OverloadedError(FedMedError):
    """A limit of disk, memory or rate; the same request may fit later."""


class UnavailableError(FedMedError):
    """The other side is away; the same request is worth repeating."""

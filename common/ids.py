"""Identifiers, and the one rule for names that come from outside. Not a generator of random ids."""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum
from typing import NewType

from common.errors import InputInvalidError, Reason

SiteName = NewType("SiteName", str)
RunId = NewType("RunId", str)
AssignmentId = NewType("AssignmentId", str)
Digest = NewType("Digest", str)


class Role(StrEnum):
    """What a caller may be; it stands in the caller's certificate."""

    SITE = "site"
    EVALUATOR = "evaluator"
    OPERATOR = "operator"
    COORDINATOR = "coordinator"


# A DNS label (RFC 1123, section 2.1): safe as a file name, a metric label and a certificate's path segment.
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


def is_name(value: str) -> bool:
    """Whether ``value`` is a DNS label; names reach file paths, so nothing else is let in."""
    return _NAME.fullmatch(value) is not None


def check_name(value: str, what: str) -> str:
    """Return ``value`` if it `is_name`.

    Raises:
        InputInvalidError: with what was expected and what came.
    """
    if not is_name(value):
        expected = "1 to 63 of a-z, 0-9 and inner '-'"
        raise InputInvalidError(Reason.NAME_INVALID, f"{what}: expected {expected}, got {value[:80]!r}")
    return value


def check_digest(value: str, what: str) -> Digest:
    """Return ``value`` if it is written ``sha256:`` and 64 lower-case hex digits.

    Raises:
        InputInvalidError: with what was expected and what came.
    """
    if not _DIGEST.fullmatch(value):
        raise InputInvalidError(
            Reason.DIGEST_INVALID, f"{what}: expected 'sha256:' and 64 hex digits, got {value[:80]!r}"
        )
    return Digest(value)


def digest_of(content: bytes) -> Digest:
    """SHA-256 (FIPS 180-4) of ``content`` in the form that :func:`check_digest` accepts."""
    return Digest("sha256:" + hashlib.sha256(content).hexdigest())


def derived_id(*parts: str | int) -> str:
    """An id of 32 hex digits that is a function of ``parts``: asked twice, it is the same."""
    joined = "\x1f".join(str(part) for part in parts)
    return hashlib.sha256(joined.encode()).hexdigest()[:32]

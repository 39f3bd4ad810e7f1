"""Reads who this agent is from its identity folder. It makes no key and asks for no certificate."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from common.clock import SystemClock
from common.errors import InputInvalidError, Reason, UnauthenticatedError
from common.identity_folder import CertifiedIdentity, read_certified
from common.tls import Role

_ROLES = frozenset({Role.SITE, Role.EVALUATOR})


def expired(at: datetime) -> UnauthenticatedError:
    """The error of a certificate that was valid until ``at``."""
    message = f"certificate: expected one that is valid now, got one that expired at {at.isoformat()}"
    return UnauthenticatedError(Reason.CERTIFICATE_INVALID, message)


def read_identity(folder: Path) -> CertifiedIdentity:
    """The identity in ``folder``.

    Raises:
        InputInvalidError: CONFIG_INVALID, with what to do about it.
        UnauthenticatedError: CERTIFICATE_INVALID, it names nobody or has expired.
    """
    who = read_certified(folder)
    if who.caller.role not in _ROLES:
        expected = "expected a certificate of a site or an evaluator"
        raise InputInvalidError(Reason.CONFIG_INVALID, f"{folder}: {expected}, got one of role {who.caller.role}")
    if SystemClock().now() > who.expires_at:
        raise expired(who.expires_at)
    return who

"""Reads who this agent is from its identity folder. It makes no key and asks for no certificate."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509

from common.clock import SystemClock
from common.errors import InputInvalidError, Reason, UnauthenticatedError
from common.tls import Caller, Identity, Role, caller_from_certificate, load_identity

_ROLES = frozenset({Role.SITE, Role.EVALUATOR})


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentIdentity:
    """The key and certificates, and whom they name."""

    identity: Identity
    caller: Caller
    expires_at: datetime


def expired(at: datetime) -> UnauthenticatedError:
    """The error of a certificate that was valid until ``at``."""
    message = f"certificate: expected one that is valid now, got one that expired at {at.isoformat()}"
    return UnauthenticatedError(Reason.CERTIFICATE_INVALID, message)


def read_identity(folder: Path) -> AgentIdentity:
    """The identity in ``folder``.

    Raises:
        InputInvalidError: CONFIG_INVALID, with what to do about it.
        UnauthenticatedError: CERTIFICATE_INVALID, it names nobody or has expired.
    """
    identity = load_identity(folder)
    caller = caller_from_certificate(identity.certificate_pem)
    if caller.role not in _ROLES:
        expected = "expected a certificate of a site or an evaluator"
        raise InputInvalidError(Reason.CONFIG_INVALID, f"{folder}: {expected}, got one of role {caller.role}")
    expires_at = x509.load_pem_x509_certificate(identity.certificate_pem).not_valid_after_utc
    if SystemClock().now() > expires_at:
        raise expired(expires_at)
    return AgentIdentity(identity=identity, caller=caller, expires_at=expires_at)

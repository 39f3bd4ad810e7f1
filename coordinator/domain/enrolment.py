"""Who may become a member, and who still is one: join tokens, standings, certificates, and the rate of attempts.

Decisions alone. Tokens are known by their hash; drawing them, and signing certificates, is done elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from common.errors import Reason
from common.ids import Digest, Role, SiteName

# Of an Ed25519 public key (RFC 8032, section 5.1.5).
SIGNING_KEY_BYTES = 32
MAX_TOKEN_LIFETIME = timedelta(days=30)
# Clocks of hospitals differ; a certificate is good from a little before it was made.
BACKDATING = timedelta(minutes=5)
ENROLLABLE_ROLES = frozenset({Role.SITE, Role.EVALUATOR})


class Standing(StrEnum):
    """How a name stands with the consortium."""

    MEMBER = "member"
    BANNED = "banned"
    WITHDRAWN = "withdrawn"
    BANNED_WITHDRAWN = "banned_withdrawn"

    @property
    def is_banned(self) -> bool:
        """Whether an operator keeps the name out."""
        return self in (Standing.BANNED, Standing.BANNED_WITHDRAWN)

    @property
    def has_withdrawn(self) -> bool:
        """Whether the name ended its membership itself, banned since or not."""
        return self in (Standing.WITHDRAWN, Standing.BANNED_WITHDRAWN)

    def banned(self) -> Standing:
        """What it becomes by a ban."""
        return Standing.BANNED_WITHDRAWN if self.has_withdrawn else Standing.BANNED

    def unbanned(self) -> Standing:
        """What it was but for a ban."""
        return Standing.WITHDRAWN if self.has_withdrawn else Standing.MEMBER

    def withdrawn(self) -> Standing:
        """What it becomes by a withdrawal: a ban outlasts it."""
        return Standing.BANNED_WITHDRAWN if self.is_banned else Standing.WITHDRAWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A name that enrolled, or that an operator decided about.

    Attributes:
        role: None for one of whom an operator alone has spoken, by a ban.
        enrolled_at: None for one whose certificate was not asked for with a join token.
        signing_public_key: 32 bytes, hex; empty for none.
    """

    name: SiteName
    role: Role | None
    standing: Standing = Standing.MEMBER
    enrolled_at: datetime | None = None
    signing_public_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinToken:
    """The right to become ``name``, once.

    Attributes:
        spent_by: Digest of the public key that was certified for it; None while it is not spent; empty once that key
            may not come again with it either.
    """

    token_hash: Digest
    name: SiteName
    role: Role
    expires_at: datetime
    spent_by: Digest | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuedCertificate:
    """A certificate as it is remembered.

    Attributes:
        serial: Lower-case hex.
        name: Empty when it was revoked and not issued here.
        key_digest: SHA-256 of the public key in it, as SubjectPublicKeyInfo (RFC 5280, section 4.1.2.7); or empty, too.
    """

    serial: str
    name: str
    key_digest: str
    expires_at: datetime
    revoked_at: datetime | None = None


def refusal_of_token(token: JoinToken | None, now: datetime, name: SiteName, role: Role, key: Digest) -> Reason | None:
    """Why ``name`` may not enrol with a key of digest ``key`` by this token; None when it may.

    The key that spent a token may come again with it, its answer may have been lost: until its name is banned,
    withdraws, enrols by another token or has a certificate revoked.
    """
    if token is None:
        return Reason.TOKEN_UNKNOWN
    if (token.name, token.role) != (name, role):
        return Reason.TOKEN_NAME_DIFFERS
    if token.spent_by is not None and token.spent_by != key:
        return Reason.TOKEN_SPENT
    if now >= token.expires_at:
        return Reason.TOKEN_EXPIRED
    return None


def is_superseded(member: Member, valid_from: datetime) -> bool:
    """Whether a certificate that is good from then on, and not noted here, was made before its name enrolled (anew).

    The time in a certificate is in whole seconds. One that its issuer did not date back, as a PKI of the consortium's
    own may do, is taken for up to so much younger than it is.
    """
    enrolled_at = member.enrolled_at
    return enrolled_at is not None and valid_from + BACKDATING < enrolled_at.replace(microsecond=0)


def refusal_of_standing(standing: Standing | None) -> Reason | None:
    """Why a name of that standing may call nothing; None when it may, or nothing is held against it."""
    match standing:
        case Standing.BANNED | Standing.BANNED_WITHDRAWN:
            return Reason.SITE_BANNED
        case Standing.WITHDRAWN:
            return Reason.SITE_WITHDRAWN
    return None


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimit:
    """At most ``burst`` at once, and one each ``interval_seconds`` over time."""

    interval_seconds: float
    burst: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Paced:
    """What became of one attempt.

    Attributes:
        full_at: When the limit will have recovered wholly: the theoretical arrival time of GCRA, to be kept.
        wait_seconds: 0 when the attempt is let through; else after how long one would be.
    """

    full_at: float
    wait_seconds: float


def pace(limit: RateLimit, full_at: float | None, now: float) -> Paced:
    """The generic cell rate algorithm (ITU-T I.371, annex A) for one attempt at ``now`` seconds.

    Each attempt that is let through moves the theoretical arrival time on by one interval, and it may be ahead of now
    by at most ``burst`` intervals. One that is not moves nothing.
    """
    moved = max(now, full_at if full_at is not None else now) + limit.interval_seconds
    wait = moved - limit.burst * limit.interval_seconds - now
    if wait > 0:
        return Paced(full_at=moved - limit.interval_seconds, wait_seconds=wait)
    return Paced(full_at=moved, wait_seconds=0.0)

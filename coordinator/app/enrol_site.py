"""Admits sites by join token, and renews certificates. It signs nothing itself and draws no token."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Never

from common.clock import Clock
from common.errors import InputInvalidError, NotAllowedError, OverloadedError, Reason
from common.ids import Role, SiteName, check_name, digest_of
from common.signing import fingerprint
from common.signing_requests import SigningRequest, read_request
from common.tls import Caller, Peer
from coordinator.app.ports import Audit, CertificateIssuer, MemberStore
from coordinator.app.refusal_log import RefusalLog
from coordinator.app.standings import Standings
from coordinator.domain.audit import AuditAction, AuditEvent
from coordinator.domain.enrolment import (
    ENROLLABLE_ROLES,
    MAX_TOKEN_LIFETIME,
    SIGNING_KEY_BYTES,
    JoinToken,
    Member,
    RateLimit,
    pace,
    refusal_of_token,
)

# A person who mistypes tries a few times; a guess of 256 bits does not come true at any rate.
LIMIT_OF_A_SOURCE = RateLimit(interval_seconds=6.0, burst=10)
LIMIT_OF_ALL = RateLimit(interval_seconds=0.1, burst=100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """What whoever asked for a certificate gets, PEM."""

    chain_pem: bytes
    trust_bundle_pem: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """What comes with a request for a certificate: PKCS #10 as PEM, and the key that signs updates, or nothing."""

    request_pem: bytes
    signing_public_key: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """Decides by source, and over all, whether one more attempt to enrol is heard. It forgets who has waited enough."""

    monotonic: Callable[[], float]
    of_source: RateLimit = LIMIT_OF_A_SOURCE
    of_all: RateLimit = LIMIT_OF_ALL
    full_at: dict[str, float] = field(default_factory=dict)

    def count(self, source: str) -> None:
        """Count one attempt.

        Raises:
            OverloadedError: TOO_MANY_ATTEMPTS, with how long to wait.
        """
        now = self.monotonic()
        for key in [key for key, full_at in self.full_at.items() if full_at <= now]:
            del self.full_at[key]
        paces = {
            key: pace(limit, self.full_at.get(key), now) for key, limit in ((source, self.of_source), ("", self.of_all))
        }
        wait = max(paced.wait_seconds for paced in paces.values())
        if wait > 0:
            raise OverloadedError(Reason.TOO_MANY_ATTEMPTS, f"enrolment: expected the next attempt in {wait:.1f} s")
        self.full_at.update({key: paced.full_at for key, paced in paces.items()})


class Enrolment:
    """Answers ``CreateJoinToken``, ``Enrol`` and ``RenewCertificate``."""

    def __init__(
        self,
        store: MemberStore,
        standings: Standings,
        issuer: CertificateIssuer,
        audit: Audit,
        clock: Clock,
        draw_token: Callable[[], str],
    ) -> None:
        self._store = store
        self._standings = standings
        self._issuer = issuer
        self._refusals = RefusalLog(audit, clock)
        self._clock = clock
        self._draw_token = draw_token
        self._attempts = Attempts(monotonic=clock.monotonic)

    async def create_token(self, operator: Caller, name: str, role: str, lifetime: timedelta) -> tuple[str, datetime]:
        """A new token for ``name``, and until when it is good; only its hash is stored.

        Raises:
            InputInvalidError: NAME_INVALID, FIELD_INVALID.
            NotAllowedError: SITE_BANNED.
        """
        site = SiteName(check_name(name, "name"))
        if role not in ENROLLABLE_ROLES:
            raise _invalid(f"role: expected {' or '.join(sorted(ENROLLABLE_ROLES))}, got {role[:40]!r}")
        if not timedelta() < lifetime <= MAX_TOKEN_LIFETIME:
            raise _invalid(f"lifetime: expected above 0 and at most {MAX_TOKEN_LIFETIME.days} days, got {lifetime}")
        return await self._standings.alone(self._create_token(operator, site, Role(role), lifetime))

    async def _create_token(
        self, operator: Caller, site: SiteName, role: Role, lifetime: timedelta
    ) -> tuple[str, datetime]:
        known, has = self._standings.member(site), self._standings.role(site)
        if known is not None and known.standing.is_banned:
            raise NotAllowedError(Reason.SITE_BANNED, f"{site} is banned; lift the ban first")
        if has not in (None, role):
            raise _invalid(f"role: expected {has}, which {site} has, got {role}")
        secret, now = self._draw_token(), self._clock.now()
        token = JoinToken(token_hash=digest_of(secret.encode()), name=site, role=role, expires_at=now + lifetime)
        await self._store.add_token(token, self._event(AuditAction.TOKEN_CREATED, operator.uri, site))
        return secret, token.expires_at

    async def enrol(self, source: str, secret: str, application: Application) -> Certified:
        """Make whoever holds ``secret`` the member that it is for; the same key may ask again.

        Raises:
            OverloadedError: TOO_MANY_ATTEMPTS.
            InputInvalidError: FIELD_INVALID, SIGNING_REQUEST_INVALID.
            NotAllowedError: TOKEN_UNKNOWN, TOKEN_SPENT, TOKEN_EXPIRED, TOKEN_NAME_DIFFERS, SITE_BANNED;
                ROLE_NOT_ALLOWED, the name came by another role meanwhile; SIGNING_KEY_REVOKED.
            NotNowError: NOT_ISSUING.
        """
        self._attempts.count(source)
        request = _read(application)
        return await self._standings.alone(self._enrol(source, secret, request, application.signing_public_key.hex()))

    async def _enrol(self, source: str, secret: str, request: SigningRequest, signing_key: str) -> Certified:
        name, now = request.caller.name, self._clock.now()
        token_hash = digest_of(secret.encode())
        token = await self._store.token(token_hash)
        known = self._standings.member(name)
        reason = refusal_of_token(token, now, name, request.caller.role, request.key_digest)
        if reason is None and known is not None and known.standing.is_banned:
            reason = Reason.SITE_BANNED
        if reason is None and self._standings.role(name) not in (None, request.caller.role):
            reason = Reason.ROLE_NOT_ALLOWED
        if reason is None and self._is_revoked(signing_key):
            reason = Reason.SIGNING_KEY_REVOKED
        if reason is not None:
            await self._refuse(source, name, reason)
        signed = self._issuer.sign(request, now)
        member = Member(
            name=name,
            role=request.caller.role,
            enrolled_at=now,
            signing_public_key=signing_key,
        )
        admitted = self._event(AuditAction.SITE_ENROLLED, source, name)
        if not await self._store.enrol(token_hash, member, signed.issued, admitted):
            await self._refuse(source, name, Reason.TOKEN_SPENT)  # by another attempt, meanwhile
        self._standings.note_superseded(signed.issued, now)
        self._standings.note_member(member)
        self._standings.note_certificate(signed.issued, now)
        return Certified(chain_pem=signed.chain_pem, trust_bundle_pem=self._issuer.trust_bundle_pem())

    async def tell_refusals(self) -> None:
        """Audit the refused tokens that were counted and not told of yet; see `RefusalLog`."""
        await self._standings.alone(self._refusals.tell())

    async def renew(self, peer: Peer, application: Application) -> Certified:
        """A certificate after the one that ``peer`` calls with.

        Raises:
            InputInvalidError: FIELD_INVALID, SIGNING_REQUEST_INVALID.
            NotAllowedError: SIGNING_KEY_DIFFERS; as `Standings.refusal`, for what came about while it was called.
            UnauthenticatedError: as `Standings.refusal`.
            NotNowError: NOT_ISSUING.
        """
        request, caller = _read(application), peer.caller
        if request.caller != caller:
            message = f"signing request: expected the caller's own name {caller.uri}, got {request.caller.uri}"
            raise InputInvalidError(Reason.SIGNING_REQUEST_INVALID, message)
        return await self._standings.alone(self._renew(peer, request, application.signing_public_key.hex()))

    async def _renew(self, peer: Peer, request: SigningRequest, signing_key: str) -> Certified:
        now, caller = self._clock.now(), peer.caller
        if (refusal := self._standings.refusal(peer)) is not None:
            raise refusal
        member = self._member_with_key(caller, signing_key)
        signed = self._issuer.sign(request, now)
        if member is not None:
            await self._store.save_member(member)
            self._standings.note_member(member)
        renewed = self._event(AuditAction.CERTIFICATE_RENEWED, caller.uri, caller.name)
        await self._store.add_certificate(signed.issued, renewed)
        self._standings.note_certificate(signed.issued, now)
        return Certified(chain_pem=signed.chain_pem, trust_bundle_pem=self._issuer.trust_bundle_pem())

    def _member_with_key(self, caller: Caller, signing_key: str) -> Member | None:
        """The member to store when ``signing_key`` is the first that is heard of; None when nothing changes.

        In place of a key that was revoked comes another by a join token alone, or by the root's certificate.
        """
        known = self._standings.member(caller.name)
        if not signing_key or (known is not None and known.signing_public_key == signing_key):
            return None
        if self._is_revoked(signing_key) or (known is not None and self._is_revoked(known.signing_public_key)):
            return None
        if known is not None and known.signing_public_key:
            message = f"signing_public_key: expected the one with which {caller.name} enrolled, got another"
            raise NotAllowedError(Reason.SIGNING_KEY_DIFFERS, message)
        known = known or Member(name=caller.name, role=caller.role)
        return replace(known, role=caller.role, signing_public_key=signing_key)

    def _is_revoked(self, signing_key: str) -> bool:
        return bool(signing_key) and self._standings.is_key_revoked(fingerprint(signing_key))

    async def _refuse(self, source: str, name: SiteName, reason: Reason) -> Never:
        await self._refusals.note(source, name, reason)
        raise NotAllowedError(reason, f"token: it does not make {name} a member: {reason}")

    def _event(self, action: AuditAction, caller: str, subject: SiteName) -> AuditEvent:
        return AuditEvent(at=self._clock.now(), action=action, caller=caller, subject=subject)


def _read(application: Application) -> SigningRequest:
    if len(application.signing_public_key) not in (0, SIGNING_KEY_BYTES):
        got = len(application.signing_public_key)
        raise _invalid(f"signing_public_key: expected {SIGNING_KEY_BYTES} bytes or none, got {got}")
    return read_request(application.request_pem)


def _invalid(message: str) -> InputInvalidError:
    return InputInvalidError(Reason.FIELD_INVALID, message)

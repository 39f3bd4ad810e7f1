"""How every name and every certificate stands, in memory as last stored: asked at each call. It decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from common.errors import FedMedError, NotAllowedError, Reason, UnauthenticatedError
from common.ids import Digest, Role, SiteName
from common.signing import fingerprint
from common.tls import Caller, Peer
from coordinator.app.ports import Membership
from coordinator.domain.enrolment import (
    ENROLLABLE_ROLES,
    IssuedCertificate,
    Member,
    is_superseded,
    refusal_of_standing,
)

T = TypeVar("T")


class Standings:
    """Members by name, certificates by serial; whoever listens is told when something is held against somebody.

    A name has one role: the one that it enrolled in, or was first heard of in. Rosters, presence and standing go by the
    name alone, so that a second role of it could end the first one's membership, and delete its updates.
    """

    def __init__(self, membership: Membership | None = None, heard: Mapping[SiteName, Role] | None = None) -> None:
        known = membership or Membership()
        self._heard = dict(heard or {})
        self._members = {member.name: member for member in known.members}
        self._certificates = {each.serial: each for each in known.certificates}
        self._revoked_keys = known.revoked_keys
        self._listeners: list[Callable[[], None]] = []
        self._changing = asyncio.Lock()
        self._changes: set[asyncio.Task[Any]] = set()  # the loop itself holds its tasks weakly

    @property
    def members(self) -> tuple[Member, ...]:
        """Every member, sorted by name."""
        return tuple(self._members[name] for name in sorted(self._members))

    def member(self, name: SiteName) -> Member | None:
        """The member of that name."""
        return self._members.get(name)

    def role(self, name: SiteName) -> Role | None:
        """The one role of that name; None for a name that nobody has come by yet."""
        member = self._members.get(name)
        return member.role if member is not None and member.role is not None else self._heard.get(name)

    def note_heard(self, caller: Caller) -> None:
        """The caller polls: by its role its name is known from here on.

        Raises:
            NotAllowedError: ROLE_NOT_ALLOWED, the name is known by another, be it since the call was let in.
        """
        if self.role(caller.name) not in (None, caller.role):
            raise self._other_role(caller)
        self._heard.setdefault(caller.name, caller.role)

    def certificate(self, serial: str) -> IssuedCertificate | None:
        """The certificate of that serial."""
        return self._certificates.get(serial)

    def certificates(self, now: datetime) -> tuple[IssuedCertificate, ...]:
        """Every certificate that is remembered and has not expired, the last to expire first."""
        valid = (each for each in self._certificates.values() if each.expires_at > now)
        return tuple(sorted(valid, key=lambda each: (each.expires_at, each.serial), reverse=True))

    @property
    def revoked_keys(self) -> frozenset[Digest]:
        """Fingerprints of the signing keys that were revoked."""
        return self._revoked_keys

    def is_key_revoked(self, key: Digest) -> bool:
        """Whether the signing key of that fingerprint was revoked."""
        return key in self._revoked_keys

    def signing_key(self, name: SiteName) -> str:
        """The public key (hex) with which that name signs now, by its enrolment; empty when none counts."""
        member = self._members.get(name)
        if (
            member is None
            or not member.signing_public_key
            or self.is_key_revoked(fingerprint(member.signing_public_key))
        ):
            return ""
        return member.signing_public_key

    def is_out(self, name: SiteName) -> bool:
        """Whether that name takes part in nothing any more."""
        member = self._members.get(name)
        return member is not None and refusal_of_standing(member.standing) is not None

    def refusal(self, peer: Peer) -> FedMedError | None:
        """What a call with that certificate is told instead of being served; None when nothing is held against it."""
        if peer.caller.role in ENROLLABLE_ROLES and (refusal := self._refusal_of_member(peer)) is not None:
            return refusal
        certificate = self._certificates.get(peer.serial)
        if certificate is not None and certificate.revoked_at is not None:
            message = f"certificate: {peer.serial} was revoked; use another"
            return UnauthenticatedError(Reason.CERTIFICATE_REVOKED, message)
        return None

    def _refusal_of_member(self, peer: Peer) -> FedMedError | None:
        caller = peer.caller
        member = self._members.get(caller.name)
        reason = None if member is None else refusal_of_standing(member.standing)
        if reason is not None:
            return NotAllowedError(reason, f"{caller.name} may take part no more")
        if self.role(caller.name) not in (None, caller.role):
            return self._other_role(caller)
        if member is not None and peer.serial not in self._certificates and is_superseded(member, peer.valid_from):
            message = f"certificate: {peer.serial} was made before {caller.name} enrolled anew; use the one of then"
            return UnauthenticatedError(Reason.CERTIFICATE_REVOKED, message)
        return None

    def _other_role(self, caller: Caller) -> FedMedError:
        expected = f"expected the role {self.role(caller.name)}, which {caller.name} has here"
        return NotAllowedError(Reason.ROLE_NOT_ALLOWED, f"certificate: {expected}, got {caller.role}")

    def listen(self, listener: Callable[[], None]) -> None:
        """Call ``listener`` after each change that may be held against somebody."""
        self._listeners.append(listener)

    async def alone(self, change: Coroutine[Any, Any, T]) -> T:
        """What ``change`` gives, which reads here, stores, and notes here: one at a time, so that none undoes another.

        Shielded: a caller that hangs up half-way must not part what is stored from what is held here.
        """
        task = asyncio.ensure_future(self._in_turn(change))
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def _in_turn(self, change: Coroutine[Any, Any, T]) -> T:
        async with self._changing:
            return await change

    def note_member(self, member: Member) -> None:
        """This is stored of a member."""
        self._members[member.name] = member
        self._tell()

    def note_revoked_key(self, key: Digest) -> None:
        """The signing key of that fingerprint is stored as revoked."""
        self._revoked_keys |= {key}

    def note_certificate(self, certificate: IssuedCertificate, now: datetime) -> None:
        """This certificate is stored; those that have expired are forgotten."""
        self._certificates = {serial: each for serial, each in self._certificates.items() if each.expires_at > now}
        self._certificates[certificate.serial] = certificate
        self._tell()

    def note_superseded(self, by: IssuedCertificate, at: datetime) -> None:
        """Certificates of other keys of the same name are revoked in the store."""
        for each in tuple(self._certificates.values()):
            if each.name == by.name and each.key_digest != by.key_digest and each.revoked_at is None:
                self._certificates[each.serial] = replace(each, revoked_at=at)

    def _tell(self) -> None:
        for listener in self._listeners:
            listener()

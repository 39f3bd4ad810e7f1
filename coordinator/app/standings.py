"""How every name and every certificate stands, in memory as last stored: asked at each call. It decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import datetime
from typing import Any, TypeVar

from common.errors import FedMedError, NotAllowedError, Reason, UnauthenticatedError
from common.ids import SiteName
from common.tls import Caller
from coordinator.app.ports import Membership
from coordinator.domain.enrolment import ENROLLABLE_ROLES, IssuedCertificate, Member, refusal_of_standing

T = TypeVar("T")


class Standings:
    """Members by name, certificates by serial; whoever listens is told when something is held against somebody."""

    def __init__(self, membership: Membership | None = None) -> None:
        known = membership or Membership()
        self._members = {member.name: member for member in known.members}
        self._certificates = {each.serial: each for each in known.certificates}
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

    def certificate(self, serial: str) -> IssuedCertificate | None:
        """The certificate of that serial."""
        return self._certificates.get(serial)

    def certificates(self, now: datetime) -> tuple[IssuedCertificate, ...]:
        """Every certificate that is remembered and has not expired, the last to expire first."""
        valid = (each for each in self._certificates.values() if each.expires_at > now)
        return tuple(sorted(valid, key=lambda each: (each.expires_at, each.serial), reverse=True))

    def is_out(self, name: SiteName) -> bool:
        """Whether that name takes part in nothing any more."""
        member = self._members.get(name)
        return member is not None and refusal_of_standing(member.standing) is not None

    def refusal(self, caller: Caller, serial: str) -> FedMedError | None:
        """What a call with that certificate is told instead of being served; None when nothing is held against it."""
        member = self._members.get(caller.name) if caller.role in ENROLLABLE_ROLES else None
        reason = None if member is None else refusal_of_standing(member.standing)
        if reason is not None:
            return NotAllowedError(reason, f"{caller.name} may take part no more")
        certificate = self._certificates.get(serial)
        if certificate is not None and certificate.revoked_at is not None:
            return UnauthenticatedError(Reason.CERTIFICATE_REVOKED, f"certificate: {serial} was revoked; use another")
        return None

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

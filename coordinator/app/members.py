"""What an operator, or a member itself, decides about a membership: ban, unban, revoke, withdraw. Admits nobody."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace
from datetime import datetime, timedelta

from common.clock import Clock
from common.errors import InputInvalidError, NotFoundError, Reason
from common.ids import AssignmentId, Digest, SiteName, check_digest, check_name
from common.signing import fingerprint
from common.tls import Caller
from coordinator.app.ports import BlobStore, MemberStore
from coordinator.app.round_driver import RoundDriver
from coordinator.app.standings import Standings
from coordinator.domain import events as ev
from coordinator.domain.audit import AuditAction, AuditEvent
from coordinator.domain.enrolment import IssuedCertificate, Member, Standing, refusal_of_standing
from coordinator.domain.values import Phase, Round, Run

# No certificate lives longer, so a serial that is not known here is remembered for so long.
LONGEST_LIFE = timedelta(days=3650)


class Members:
    """Answers ``BanSite``, ``UnbanSite``, ``RevokeCertificate``, ``RevokeSigningKey`` and ``Withdraw``.

    What is decided is stored first, and then acted upon.
    """

    def __init__(
        self,
        store: MemberStore,
        standings: Standings,
        driver: RoundDriver,
        blobs: BlobStore,
        clock: Clock,
    ) -> None:
        self._store = store
        self._standings = standings
        self._driver = driver
        self._blobs = blobs
        self._clock = clock
        self._withdrawals: set[asyncio.Task[datetime]] = set()  # the loop itself holds its tasks weakly

    async def ban(self, operator: Caller, name: str) -> None:
        """Keep ``name`` out, whether it enrolled or not: its calls end, and open rounds go on without it.

        Raises:
            InputInvalidError: NAME_INVALID.
        """
        await self._standings.alone(self._ban(operator, SiteName(check_name(name, "name"))))

    async def _ban(self, operator: Caller, site: SiteName) -> None:
        member = self._standings.member(site) or Member(name=site, role=None)
        banned = replace(member, standing=member.standing.banned())
        await self._set(banned, self._event(AuditAction.SITE_BANNED, operator, site))
        await self._leave(site, banned.standing, operator)

    async def unban(self, operator: Caller, name: str) -> None:
        """Let ``name`` in again; one that had withdrawn stays so.

        Raises:
            InputInvalidError: NAME_INVALID.
            NotFoundError: SITE_UNKNOWN.
        """
        await self._standings.alone(self._unban(operator, SiteName(check_name(name, "name"))))

    async def _unban(self, operator: Caller, site: SiteName) -> None:
        member = self._standings.member(site)
        if member is None:
            raise NotFoundError(Reason.SITE_UNKNOWN, f"name: no ban is known of {site}")
        if member.standing.is_banned:
            unbanned = self._event(AuditAction.SITE_UNBANNED, operator, site)
            await self._set(replace(member, standing=member.standing.unbanned()), unbanned)

    async def revoke(self, operator: Caller, serial: str) -> None:
        """Let the certificate of that serial be good no more, whoever issued it.

        Raises:
            InputInvalidError: FIELD_INVALID.
        """
        if not re.fullmatch(r"[0-9a-f]{1,40}", serial):  # RFC 5280, section 4.1.2.2: at most 20 octets
            message = f"serial: expected 1 to 40 lower-case hex digits, got {serial[:60]!r}"
            raise InputInvalidError(Reason.FIELD_INVALID, message)
        await self._standings.alone(self._revoke(operator, serial))

    async def _revoke(self, operator: Caller, serial: str) -> None:
        now = self._clock.now()
        known = self._standings.certificate(serial)
        unknown = IssuedCertificate(serial=serial, name="", key_digest="", expires_at=now + LONGEST_LIFE)
        if known is None or known.revoked_at is None:
            revoked = replace(known or unknown, revoked_at=now)
            await self._store.revoke(revoked, self._event(AuditAction.CERTIFICATE_REVOKED, operator, serial))
            self._standings.note_certificate(revoked, now)

    async def revoke_key(self, operator: Caller, key: str) -> tuple[tuple[str, int], ...]:
        """Let the signing key of that fingerprint count no more: updates that it signed leave the rounds that are open.

        Returns:
            The rounds, by run name and number, that are past that: they are being combined, or judged, with one.

        Raises:
            InputInvalidError: DIGEST_INVALID.
        """
        return await self._standings.alone(self._revoke_key(operator, check_digest(key, "fingerprint")))

    async def _revoke_key(self, operator: Caller, key: Digest) -> tuple[tuple[str, int], ...]:
        if not self._standings.is_key_revoked(key):
            await self._store.revoke_key(key, self._event(AuditAction.SIGNING_KEY_REVOKED, operator, key))
            self._standings.note_revoked_key(key)
        await self._drop_signed(operator)
        return tuple((run.terms.name, past.number) for run, past, _ in self._signed_by_revoked())

    async def _drop_signed(self, caller: Caller | None = None) -> None:
        """Let open rounds go on without updates that revoked keys have signed."""
        for run, _, site in self._signed_by_revoked():
            left = ev.SiteLeft(at=self._clock.now(), site=site, reason=Reason.SIGNING_KEY_REVOKED)
            await self._driver.post(run.run_id, left, caller)

    def _signed_by_revoked(self) -> list[tuple[Run, Round, SiteName]]:
        """Accepted updates of open rounds under a key that was revoked."""
        return [
            (run, current, entry.site)
            for run in self._driver.runs
            if (current := run.current) is not None
            for entry in current.accepted
            if entry.update is not None and entry.update.signed is not None
            if self._standings.is_key_revoked(fingerprint(entry.update.signed.public_key))
        ]

    async def withdraw(self, caller: Caller) -> datetime:
        """End the caller's membership, drop it from open rounds, delete its updates; returns when."""
        # Shielded: what withdraws ends the caller's connection, and the deletion is not to wait for the next start.
        task = asyncio.ensure_future(self._withdraw(caller))
        self._withdrawals.add(task)
        task.add_done_callback(self._withdrawals.discard)
        return await asyncio.shield(task)

    async def _withdraw(self, caller: Caller) -> datetime:
        at, sent = await self._standings.alone(self._end_membership(caller))
        # Not in turn with other decisions, and with uploads: a store that is away may take minutes.
        await self._blobs.delete_updates(sent)
        return at

    async def _end_membership(self, caller: Caller) -> tuple[datetime, list[AssignmentId]]:
        member = self._standings.member(caller.name) or Member(name=caller.name, role=caller.role)
        event = self._event(AuditAction.SITE_WITHDRAWN, caller, caller.name)
        withdrawn = replace(member, role=caller.role, standing=member.standing.withdrawn())
        await self._set(withdrawn, event)
        await self._leave(caller.name, withdrawn.standing, caller)
        return event.at, await self._note_deletion(caller.name)

    async def finish(self) -> None:
        """At a start: let go whoever was let out when an earlier life ended, in case it did not get so far."""
        for member in self._standings.members:
            if member.standing is not Standing.MEMBER:
                await self._leave(member.name, member.standing)
            if member.standing.has_withdrawn:
                await self._blobs.delete_updates(await self._note_deletion(member.name))
        await self._drop_signed()

    async def _set(self, member: Member, event: AuditEvent) -> None:
        await self._store.save_member(member, event)
        self._standings.note_member(member)

    async def _leave(self, site: SiteName, standing: Standing, caller: Caller | None = None) -> None:
        """Let open rounds go on without ``site``."""
        reason = refusal_of_standing(standing)
        if reason is None:
            return
        for run in self._driver.runs:
            await self._driver.post(run.run_id, ev.SiteLeft(at=self._clock.now(), site=site, reason=reason), caller)

    async def _note_deletion(self, site: SiteName) -> list[AssignmentId]:
        """Every update of ``site`` to delete, but one that is being combined, which goes with its round.

        First it is noted that none is kept: a round that ends meanwhile, and a release, go by that.
        """
        for run in self._driver.runs:
            await self._driver.post(run.run_id, ev.UpdatesWithdrawn(at=self._clock.now(), site=site))
        rounds = [past for run in self._driver.runs for past in run.rounds if past.phase is not Phase.AGGREGATING]
        return [entry.assignment_id for past in rounds for entry in past.roster if entry.site == site]

    def _event(self, action: AuditAction, caller: Caller, subject: str) -> AuditEvent:
        return AuditEvent(at=self._clock.now(), action=action, caller=caller.uri, subject=subject)

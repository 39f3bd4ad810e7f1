"""What the audit log tells of: who brought which change about. Values, and a pure function of a run's step; no file.

An event holds names, digests and numbers in fields of their own, and no free text: nothing of a note can get into it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from common.errors import Reason
from common.ids import Digest, RunId, SiteName
from coordinator.domain.events import ExtensionRequested, RunEvent
from coordinator.domain.values import Phase, RosterEntry, Round, Run, SiteOutcome

# The caller of what no rpc brought about: a deadline, presence, or a command of the coordinator's own.
COORDINATOR = "coordinator"


class AuditAction(StrEnum):
    """What happened."""

    RUN_CREATED = "run_created"
    RUN_PAUSED = "run_paused"
    RUN_RESUMED = "run_resumed"
    RUN_EXTENDED = "run_extended"
    RUN_ENDED = "run_ended"
    FIRST_ADAPTER_ACCEPTED = "first_adapter_accepted"
    ROUND_OPENED = "round_opened"
    ROUND_ENDED = "round_ended"
    UPDATE_ACCEPTED = "update_accepted"
    UPDATE_REFUSED = "update_refused"
    ADAPTER_PROMOTED = "adapter_promoted"
    ADAPTER_REJECTED = "adapter_rejected"
    RELEASED = "released"
    TOKEN_CREATED = "token_created"  # noqa: S105 - no password
    SITE_ENROLLED = "site_enrolled"
    ENROLMENT_REFUSED = "enrolment_refused"
    CERTIFICATE_RENEWED = "certificate_renewed"
    CERTIFICATE_REVOKED = "certificate_revoked"
    SIGNING_KEY_REVOKED = "signing_key_revoked"
    SITE_BANNED = "site_banned"
    SITE_UNBANNED = "site_unbanned"
    SITE_WITHDRAWN = "site_withdrawn"


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditEvent:
    """One entry of the audit log.

    Attributes:
        caller: Whose call brought it about, as its certificate names it, or ``COORDINATOR``; of an
            enrolment, the address that it came from.
        subject: Whom or what it is about: a run's or a site's name, a certificate's serial, or a key's fingerprint.
        state: How a run or a round ended.
        digest: Of the terms, adapter, update or manifest that it is about.
        count: Of further refusals of the same kind; None for an entry of one event.
    """

    at: datetime
    action: AuditAction
    caller: str
    subject: str
    run_id: RunId | None = None
    round_number: int | None = None
    site: SiteName | None = None
    state: str | None = None
    reason: Reason | None = None
    digest: Digest | None = None
    count: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A step of a run: ``before`` is None for a run that was created, ``event`` then too."""

    before: Run | None
    after: Run
    event: RunEvent | None
    at: datetime
    caller: str


def audit_of(change: Change) -> tuple[AuditEvent, ...]:
    """What the audit log says of a step, in the order in which it came about."""
    return tuple(_of_change(change))


def _of_change(change: Change) -> Iterator[AuditEvent]:
    before, after = change.before, change.after
    if before is None:
        yield replace(_event(change, AuditAction.RUN_CREATED), digest=after.terms.digest)
        return
    yield from _of_holding(change, before)
    if after.first_adapter is not None and before.first_adapter is None:
        yield replace(_event(change, AuditAction.FIRST_ADAPTER_ACCEPTED), digest=after.first_adapter.digest)
    known = {past.number: past for past in before.rounds}
    for current in after.rounds:
        if known.get(current.number) != current:
            for event in _of_round(change, known.get(current.number), current):
                yield replace(event, round_number=current.number)
    if before.state.is_open and not after.state.is_open:
        yield replace(_event(change, AuditAction.RUN_ENDED), state=after.state, reason=after.reason)


def _of_holding(change: Change, before: Run) -> Iterator[AuditEvent]:
    after = change.after
    if after.is_paused and not before.is_paused:
        yield _event(change, AuditAction.RUN_PAUSED)
    elif before.is_paused and not after.is_paused and after.state.is_open:
        yield _event(change, AuditAction.RUN_RESUMED)
    elif isinstance(change.event, ExtensionRequested):
        yield _event(change, AuditAction.RUN_EXTENDED)


def _of_round(change: Change, before: Round | None, current: Round) -> Iterator[AuditEvent]:
    if before is None:
        yield replace(_event(change, AuditAction.ROUND_OPENED), digest=current.global_adapter.digest)
        return
    known = {entry.site: entry.outcome for entry in before.roster}
    for entry in current.roster:
        if entry.outcome is not known.get(entry.site):
            yield from _of_answer(change, entry)
    if before.phase.is_open and not current.phase.is_open:
        yield _of_end(change, current)


def _of_answer(change: Change, entry: RosterEntry) -> Iterator[AuditEvent]:
    if entry.outcome is SiteOutcome.ACCEPTED and entry.update is not None:
        accepted = _event(change, AuditAction.UPDATE_ACCEPTED)
        yield replace(accepted, site=entry.site, digest=entry.update.file.digest)
    elif entry.outcome is SiteOutcome.REFUSED:
        yield replace(_event(change, AuditAction.UPDATE_REFUSED), site=entry.site, reason=entry.reason)


def _of_end(change: Change, closed: Round) -> AuditEvent:
    if closed.candidate is None or closed.phase not in (Phase.COMMITTED, Phase.REJECTED):
        return replace(_event(change, AuditAction.ROUND_ENDED), state=str(closed.phase), reason=closed.reason)
    is_promoted = closed.phase is Phase.COMMITTED
    action = AuditAction.ADAPTER_PROMOTED if is_promoted else AuditAction.ADAPTER_REJECTED
    return replace(_event(change, action), digest=closed.candidate.digest)


def _event(change: Change, action: AuditAction) -> AuditEvent:
    run = change.after
    return AuditEvent(at=change.at, action=action, caller=change.caller, subject=run.terms.name, run_id=run.run_id)

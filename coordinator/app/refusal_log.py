"""Refused attempts to enrol, on their way into the audit log: so many entries an interval, however many attempts.

Of each kind (source and reason) the first one has its entry at once, and those that follow within the interval have one
together, with their count, when it is over. Beyond so many kinds, sources are told of together. What a life that ends
has counted and not told of stands in its log and its metric alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from common.clock import Clock
from common.errors import Reason
from common.ids import SiteName
from coordinator.app.ports import Audit
from coordinator.domain.audit import AuditAction, AuditEvent

INTERVAL_SECONDS = 3600.0
# A consortium's sites mistype from fewer places than that within an hour.
MAX_KINDS = 10
# The source of all those that came beyond.
ELSEWHERE = "elsewhere"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """The first attempt of its kind, as it was audited, and how many came after it."""

    first: AuditEvent
    count: int = 0


class RefusalLog:
    """Counts refusals; of one caller at a time."""

    def __init__(self, audit: Audit, clock: Clock) -> None:
        self._audit = audit
        self._clock = clock
        self._kinds: dict[tuple[str, Reason], _Kind] = {}
        self._ends_at = clock.monotonic() + INTERVAL_SECONDS

    async def note(self, source: str, name: SiteName, reason: Reason) -> None:
        """Audit an attempt from ``source`` in that name, or count it."""
        if self._clock.monotonic() >= self._ends_at:
            await self.tell()
        if (source, reason) not in self._kinds and len(self._kinds) >= MAX_KINDS:
            source = ELSEWHERE
        kind = self._kinds.get((source, reason))
        if kind is not None:
            self._kinds[source, reason] = replace(kind, count=kind.count + 1)
            return
        action = AuditAction.ENROLMENT_REFUSED
        event = AuditEvent(at=self._clock.now(), action=action, caller=source, subject=name, reason=reason)
        await self._audit.record([event])
        self._kinds[source, reason] = _Kind(first=event)

    async def tell(self) -> None:
        """End the interval: audit what was counted in it. What cannot be stored is counted on."""
        now = self._clock.now()
        counted = [replace(kind.first, at=now, count=kind.count) for kind in self._kinds.values() if kind.count]
        await self._audit.record(counted)
        self._kinds.clear()
        self._ends_at = self._clock.monotonic() + INTERVAL_SECONDS

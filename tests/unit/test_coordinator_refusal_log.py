"""Refused attempts in the audit log: nobody fills it by guessing, and it says how many there were."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from common.errors import Reason
from common.hash_chain import EMPTY_CHAIN, ChainHead
from common.ids import SiteName
from coordinator.app.refusal_log import ELSEWHERE, INTERVAL_SECONDS, MAX_KINDS, RefusalLog
from coordinator.domain.audit import AuditEvent
from tests.fakes.coordinator_world import FakeClock

NORTH, SOUTH = SiteName("north"), SiteName("south")


class FakeAudit:
    """Keeps what it is told; fails while ``is_full``."""

    def __init__(self) -> None:
        self.events: list[AuditEvent] = []
        self.is_full = False

    async def record(self, events: Sequence[AuditEvent]) -> None:
        if self.is_full:
            raise OSError(28, "No space left on device")
        self.events += events

    async def audit_head(self) -> ChainHead:
        return EMPTY_CHAIN

    async def audit_lines(self, after: int, at_most: int) -> tuple[bytes, ...]:
        return ()

    @property
    def told(self) -> list[tuple[str, str, Reason | None, int | None]]:
        """Caller, subject, reason and count of each entry."""
        return [(each.caller, each.subject, each.reason, each.count) for each in self.events]


async def test_the_first_of_a_kind_is_told_at_once_and_those_that_follow_together(clock: FakeClock) -> None:
    audit = FakeAudit()
    log = RefusalLog(audit, clock)
    for name, reason in ((NORTH, Reason.TOKEN_UNKNOWN), (SOUTH, Reason.TOKEN_UNKNOWN), (NORTH, Reason.TOKEN_SPENT)):
        await log.note("192.0.2.1", name, reason)
    first = [("192.0.2.1", NORTH, Reason.TOKEN_UNKNOWN, None), ("192.0.2.1", NORTH, Reason.TOKEN_SPENT, None)]
    assert audit.told == first
    clock.advance(INTERVAL_SECONDS)
    await log.note("192.0.2.1", SOUTH, Reason.TOKEN_UNKNOWN)
    assert audit.told == [
        *first,
        ("192.0.2.1", NORTH, Reason.TOKEN_UNKNOWN, 1),
        ("192.0.2.1", SOUTH, Reason.TOKEN_UNKNOWN, None),
    ]
    assert audit.events[-1].at == clock.now()


async def test_what_was_counted_is_told_once_though_nothing_follows(clock: FakeClock) -> None:
    audit = FakeAudit()
    log = RefusalLog(audit, clock)
    for _ in range(5):
        await log.note("192.0.2.1", NORTH, Reason.TOKEN_UNKNOWN)
    for _ in range(2):
        await log.tell()
    assert [count for *_, count in audit.told] == [None, 4]


@pytest.mark.parametrize("sources", [1, 10_000])
async def test_a_day_of_guesses_from_however_many_places_is_a_bounded_number_of_entries_and_each_is_counted(
    clock: FakeClock, sources: int
) -> None:
    audit, day = FakeAudit(), 24 * 3600
    log, attempts = RefusalLog(audit, clock), 24_000
    for number in range(attempts):
        clock.advance(day / attempts)
        await log.note(f"source {number % sources}", NORTH, Reason.TOKEN_UNKNOWN)
    await log.tell()
    assert sum(1 if count is None else count for *_, count in audit.told) == attempts
    assert len(audit.events) <= 25 * 2 * (MAX_KINDS + 1)
    assert (ELSEWHERE in {caller for caller, *_ in audit.told}) == (sources > MAX_KINDS)


async def test_what_a_full_disk_did_not_take_is_counted_on(clock: FakeClock) -> None:
    audit = FakeAudit()
    log = RefusalLog(audit, clock)
    for _ in range(3):
        await log.note("192.0.2.1", NORTH, Reason.TOKEN_UNKNOWN)
    audit.is_full = True
    with pytest.raises(OSError, match="No space left"):
        await log.tell()
    audit.is_full = False
    await log.note("192.0.2.1", NORTH, Reason.TOKEN_UNKNOWN)
    await log.tell()
    assert [count for *_, count in audit.told] == [None, 3]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()

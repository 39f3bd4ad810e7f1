"""When an agent renews its certificate, and what it says when it cannot."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.exceptions import UnsupportedAlgorithm

from common.errors import NotNowError, Reason
from common.rotation import is_alarming, renewal_due_at, seconds_to_next_look
from site_agent.app.keep_identity import keep_identity, look_after

START = datetime(2026, 1, 1, tzinfo=UTC)
WEEK = timedelta(days=7)
DUE = WEEK * 2 / 3


@dataclass(frozen=True)
class Certificate:
    valid_from: datetime
    expires_at: datetime


@dataclass
class FakeClock:
    at: datetime = START

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return (self.at - START).total_seconds()


@dataclass
class FakeIdentity:
    """Renewed from ``clock``, unless ``error`` says that it is not."""

    clock: FakeClock
    error: Exception | None = None
    renewed_at: list[datetime] = field(default_factory=list)
    certificate: Certificate = field(default_factory=lambda: Certificate(START, START + WEEK))
    problem: Reason | None = None

    def current(self) -> Certificate:
        return self.certificate

    async def renew(self) -> None:
        self.renewed_at.append(self.clock.at)
        if self.error is not None:
            raise self.error
        self.certificate = Certificate(self.clock.at, self.clock.at + WEEK)


class Enough(Exception):
    """Has been looked at long enough."""


async def live(identity: FakeIdentity, until: timedelta) -> None:
    """Keep the identity on a clock that sleeping moves."""

    async def sleep(seconds: float) -> None:
        identity.clock.at += timedelta(seconds=seconds)
        if identity.clock.at >= START + until:
            raise Enough

    with pytest.raises(Enough):
        await keep_identity(identity, identity.clock, sleep)


async def test_a_certificate_is_renewed_at_two_thirds_of_its_life_and_so_is_the_next() -> None:
    identity = FakeIdentity(FakeClock())
    await live(identity, until=timedelta(days=10))
    assert identity.renewed_at == [START + DUE, START + 2 * DUE]


async def test_one_that_cannot_be_renewed_is_tried_until_its_end_at_most_once_a_minute() -> None:
    identity = FakeIdentity(FakeClock(), error=NotNowError(Reason.NOT_ISSUING, "elsewhere"))
    await live(identity, until=WEEK)
    gaps = [(b - a).total_seconds() for a, b in zip(identity.renewed_at, identity.renewed_at[1:], strict=False)]
    assert min(gaps) >= 60 and max(gaps) <= 3600
    assert identity.renewed_at[-1] > START + WEEK - timedelta(minutes=2)


async def test_one_that_others_have_renewed_is_left_alone() -> None:
    identity = FakeIdentity(FakeClock(START + DUE - timedelta(seconds=1)))
    identity.certificate = Certificate(START + DUE, START + DUE + WEEK)
    await look_after(identity, identity.clock)
    assert identity.renewed_at == []


@pytest.mark.parametrize("error", [PermissionError("identity"), UnsupportedAlgorithm("a key of some new kind")])
async def test_a_folder_that_cannot_be_written_to_or_a_strange_answer_ends_nothing(error: Exception) -> None:
    identity = FakeIdentity(FakeClock(START + DUE), error=error)
    await look_after(identity, identity.clock)
    assert identity.renewed_at == [START + DUE]


def test_the_last_tenth_of_a_life_is_alarming() -> None:
    assert not is_alarming(START, START + WEEK, START + WEEK * 0.89)
    assert is_alarming(START, START + WEEK, START + WEEK * 0.91)


def test_a_look_comes_when_the_certificate_is_due_and_never_later_than_in_an_hour() -> None:
    due_at = renewal_due_at(START, START + WEEK)
    assert seconds_to_next_look(START, START + WEEK, due_at - timedelta(minutes=10)) == 600
    assert seconds_to_next_look(START, START + WEEK, START) == 3600
    assert seconds_to_next_look(START, START + WEEK, START + WEEK) == 60

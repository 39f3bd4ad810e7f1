"""Join tokens, standings and the rate of attempts, as decisions alone."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import Reason
from common.ids import Role, SiteName, digest_of
from coordinator.domain.enrolment import JoinToken, RateLimit, Standing, pace, refusal_of_standing, refusal_of_token
from tests.fakes.coordinator_values import START

NORTH, SOUTH = SiteName("north"), SiteName("south")
KEY, OTHER_KEY = digest_of(b"key"), digest_of(b"other key")
TOKEN = JoinToken(token_hash=digest_of(b"token"), name=NORTH, role=Role.SITE, expires_at=START + timedelta(hours=1))
SPENT = replace(TOKEN, spent_by=KEY)


def test_a_good_token_lets_its_site_in() -> None:
    assert refusal_of_token(TOKEN, START, NORTH, Role.SITE, KEY) is None


def test_the_key_that_spent_a_token_may_ask_again_since_its_answer_may_have_been_lost() -> None:
    assert refusal_of_token(SPENT, START, NORTH, Role.SITE, KEY) is None


@pytest.mark.parametrize(
    ("token", "seconds", "name", "role", "key", "reason"),
    [
        (None, 0, NORTH, Role.SITE, KEY, Reason.TOKEN_UNKNOWN),
        (TOKEN, 0, SOUTH, Role.SITE, KEY, Reason.TOKEN_NAME_DIFFERS),
        (TOKEN, 0, NORTH, Role.EVALUATOR, KEY, Reason.TOKEN_NAME_DIFFERS),
        (TOKEN, 3600, NORTH, Role.SITE, KEY, Reason.TOKEN_EXPIRED),
        (SPENT, 3600, NORTH, Role.SITE, KEY, Reason.TOKEN_EXPIRED),
        (SPENT, 0, NORTH, Role.SITE, OTHER_KEY, Reason.TOKEN_SPENT),
        (SPENT, 0, SOUTH, Role.SITE, KEY, Reason.TOKEN_NAME_DIFFERS),
    ],
)
def test_any_other_token_is_refused_with_why(
    token: JoinToken | None, seconds: int, name: SiteName, role: Role, key: str, reason: Reason
) -> None:
    now = START + timedelta(seconds=seconds)
    assert refusal_of_token(token, now, name, role, digest_of(b"key") if key == KEY else OTHER_KEY) is reason


def test_a_standing_is_held_against_who_is_banned_or_has_withdrawn_alone() -> None:
    refusals = {standing: refusal_of_standing(standing) for standing in (None, *Standing)}
    assert refusals == {
        None: None,
        Standing.MEMBER: None,
        Standing.BANNED: Reason.SITE_BANNED,
        Standing.WITHDRAWN: Reason.SITE_WITHDRAWN,
        Standing.BANNED_WITHDRAWN: Reason.SITE_BANNED,
    }


def test_a_ban_and_a_withdrawal_keep_each_other_whatever_comes_first() -> None:
    assert Standing.WITHDRAWN.banned() is Standing.BANNED.withdrawn() is Standing.BANNED_WITHDRAWN
    assert Standing.BANNED_WITHDRAWN.unbanned() is Standing.WITHDRAWN
    assert Standing.MEMBER.banned().unbanned() is Standing.MEMBER


LIMITS = st.builds(RateLimit, interval_seconds=st.integers(1, 60), burst=st.integers(1, 20))
GAPS = st.lists(st.integers(0, 200), max_size=60)


@given(limit=LIMITS, gaps=GAPS)
def test_no_window_lets_more_through_than_the_burst_and_one_each_interval(limit: RateLimit, gaps: list[int]) -> None:
    now, full_at, let_through = 0.0, None, []
    for gap in gaps:
        now += gap
        paced = pace(limit, full_at, now)
        full_at = paced.full_at
        if paced.wait_seconds == 0:
            let_through.append(now)
    for first, start in enumerate(let_through):
        for last, end in enumerate(let_through[first:], start=1):
            assert last <= limit.burst + (end - start) // limit.interval_seconds


@given(limit=LIMITS, gaps=GAPS)
def test_who_waits_as_long_as_told_is_let_through_and_not_before(limit: RateLimit, gaps: list[int]) -> None:
    now, full_at = 0.0, None
    for gap in gaps:
        now += gap
        paced = pace(limit, full_at, now)
        full_at = paced.full_at
        if paced.wait_seconds > 0:
            assert pace(limit, full_at, now + paced.wait_seconds - 0.5).wait_seconds > 0
            assert pace(limit, full_at, now + paced.wait_seconds).wait_seconds == 0


def test_the_burst_is_let_through_at_once() -> None:
    limit, full_at = RateLimit(interval_seconds=6.0, burst=3), None
    waits: list[float] = []
    for _ in range(4):
        paced = pace(limit, full_at, 100.0)
        full_at, waits = paced.full_at, [*waits, paced.wait_seconds]
    assert waits == [0.0, 0.0, 0.0, 6.0]

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from common.retry import backoff


@given(st.integers(-5, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_wait_is_never_negative_and_never_above_the_cap(attempt: int, jitter: float) -> None:
    assert 0 <= backoff(attempt, 0.5, 30.0, jitter) <= 30.0


def test_waits_double_up_to_the_cap() -> None:
    assert [backoff(attempt, 1.0, 10.0, 1.0) for attempt in range(6)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_jitter_spreads_over_the_whole_wait() -> None:
    assert [backoff(2, 1.0, 10.0, jitter) for jitter in (0.0, 0.25, 0.5)] == [0.0, 1.0, 2.0]

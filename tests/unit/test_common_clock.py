from __future__ import annotations

from datetime import UTC

from common.clock import Clock, SystemClock


def test_the_system_clock_tells_utc_and_goes_on() -> None:
    clock: Clock = SystemClock()
    before = clock.monotonic()
    assert clock.now().tzinfo is UTC
    assert clock.monotonic() >= before

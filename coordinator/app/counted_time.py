"""Which part of the time of day counts against deadlines: that in which this coordinator ran. Stores and waits nothing.

Not counted is what passed while it was down, stopped (SIGSTOP, a sleeping machine) or not reached by its own loop, and
what the clock was set forward or back: in none of it could a site have answered.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from common.clock import Clock

# How often the store is told until when time has counted. What a crash finds after the last mark is given back.
MARK_SECONDS = 5.0
# A loop that comes later than this was held up; what is beyond does not count.
LONGEST_GAP_SECONDS = 15.0
# Clocks that are disciplined (NTP) drift and slew by less than this in a gap.
_TOLERANCE = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """Both clocks at one instant.

    Attributes:
        lost: What the time of day has moved on by since the last mark without counting; negative when it was set back.
    """

    now: datetime
    monotonic: float
    lost: timedelta


class CountedTime:
    """Compares the time of day with what the monotonic clock says has passed, from mark to mark."""

    def __init__(self, clock: Clock, longest_gap_seconds: float = LONGEST_GAP_SECONDS) -> None:
        self._clock = clock
        self._longest_gap_seconds = longest_gap_seconds
        self._counted_until = clock.now()
        self._marked_at = clock.monotonic()

    def resume_from(self, counted_until: datetime) -> None:
        """An earlier life marked this instant last; none of what has passed since then has counted."""
        self._counted_until = counted_until
        self._marked_at = self._clock.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the next mark is due, because time has passed or some of it was lost."""
        reading = self.read()
        return reading.monotonic - self._marked_at >= MARK_SECONDS or bool(reading.lost)

    def read(self) -> Reading:
        """What there is to account for now."""
        now, monotonic = self._clock.now(), self._clock.monotonic()
        ran = timedelta(seconds=min(monotonic - self._marked_at, self._longest_gap_seconds))
        lost = now - self._counted_until - ran
        return Reading(now=now, monotonic=monotonic, lost=lost if abs(lost) > _TOLERANCE else timedelta())

    def mark(self, reading: Reading) -> None:
        """Everything up to ``reading`` is accounted for, and stored."""
        self._counted_until, self._marked_at = reading.now, reading.monotonic

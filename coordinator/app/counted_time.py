"""Which part of the time of day counts against deadlines: that in which this coordinator ran. Stores and waits nothing.

Not counted is what passed while it was down, stopped (SIGSTOP, a sleeping machine) or not reached by its own loop, and
what the clock was set forward or back: in none of it could a site have answered.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from common.clock import Clock

# How often the store is told until when time has counted: at most so much of it counts though nobody ran.
MARK_SECONDS = 5.0
# A loop that comes this late was held up; what is beyond does not count.
LONGEST_GAP_SECONDS = 15.0
# Clocks that are disciplined (NTP) drift and slew by less than this in a gap.
_TOLERANCE = timedelta(seconds=1)


class CountedTime:
    """Compares the time of day with what the monotonic clock says has passed, from mark to mark."""

    def __init__(self, clock: Clock, longest_gap_seconds: float = LONGEST_GAP_SECONDS) -> None:
        self._clock = clock
        self._longest_gap_seconds = longest_gap_seconds
        self._counted_until = clock.now()
        self._marked_at = clock.monotonic()

    def resume_from(self, counted_until: datetime) -> timedelta:
        """What has passed since an earlier life's last mark, none of which counts."""
        return self._within_tolerance(self._clock.now() - counted_until)

    @property
    def is_due(self) -> bool:
        """Whether the next mark is due, because time has passed or the clock was set."""
        return self._clock.monotonic() - self._marked_at >= MARK_SECONDS or bool(self.lost())

    def lost(self) -> timedelta:
        """What the time of day has moved on by since the last mark without counting; negative when it was set back."""
        ran = min(self._clock.monotonic() - self._marked_at, self._longest_gap_seconds)
        return self._within_tolerance(self._clock.now() - self._counted_until - timedelta(seconds=ran))

    def mark(self) -> datetime:
        """Everything until now is accounted for; returns the instant to store."""
        self._counted_until = self._clock.now()
        self._marked_at = self._clock.monotonic()
        return self._counted_until

    @staticmethod
    def _within_tolerance(lost: timedelta) -> timedelta:
        return lost if abs(lost) > _TOLERANCE else timedelta()

"""Draws from one seed what befalls a simulated federation: deaths, lost messages, clocks that are set, long nights."""

from __future__ import annotations

import random
from collections.abc import Sequence
from datetime import timedelta

from tests.simulation.machines import Death
from tests.simulation.network import Fate

# After so many deaths nothing befalls anybody any more, and the run must come to its end.
MOST_DEATHS = 120
HOUR = 3600.0
# In places; a run that nothing befalls takes the coordinator some 450 of them, and an agent some 200. The shorter lives
# are, the more of them there are, all over the run.
LONGEST_LIVES: dict[str, tuple[int | None, ...]] = {
    "coordinator": (None, 30, 60, 120, 240),
    "agent": (None, 15, 30, 60, 120),
}


class Weather:
    """How bad it is in one run: drawn once, from calm to everything at once."""

    def __init__(self, seed: int, names: Sequence[str]) -> None:
        self.rng = random.Random(f"weather {seed}")
        self.is_calm = False
        self.deaths = 0
        self._lives = {name: self.rng.choice(LONGEST_LIVES.get(name, LONGEST_LIVES["agent"])) for name in names}
        self._troubled = self.rng.choice((0.0, 0.02, 0.1, 0.3))
        self._latency_seconds = self.rng.choice((0.001, 0.02, 0.5))
        self._thread_seconds = self.rng.choice((0.0001, 0.005, 0.2))
        self._night = self.rng.choice((0.0, 0.0, 0.01, 0.05))

    def places_to_live(self, name: str) -> int | None:
        longest = self._lives[name]
        if self.is_calm or longest is None or self.deaths >= MOST_DEATHS:
            return None
        return self.rng.randint(1, longest)

    def death(self) -> Death:
        self.deaths += 1
        return self.rng.choice(tuple(Death))

    def kept(self) -> float:
        return 0.0 if self.is_calm else self.rng.choice((0.0, 0.5, 1.0))

    def downtime_seconds(self) -> float:
        return self._a_while(3.0)

    def thread_seconds(self) -> float:
        return self.rng.expovariate(1 / self._thread_seconds)

    def fate(self, _method: str) -> Fate:
        """What becomes of one call."""
        if self.is_calm or self.rng.random() >= self._troubled:
            return Fate(seconds=self._latency)
        return Fate(
            seconds=self._latency,
            ends_after=self.rng.choice((None, *range(1, 8))),
            notice_seconds=(self.rng.choice((0.01, 15.0, 90.0)), self.rng.choice((0.01, 15.0, 90.0))),
            is_flushed=self.rng.random() < 0.5,
            again_after=self.rng.expovariate(1 / 20) if self.rng.random() < 0.3 else None,
        )

    def seconds_to_next_oddity(self) -> float:
        """When a clock is set, or a process stopped, the next time."""
        return self.rng.expovariate(1 / 200)

    def clock_step(self) -> timedelta:
        """By how much a clock is set forward or back."""
        return timedelta(seconds=self.rng.choice((-1, 1)) * self._a_while(30.0))

    def stop_seconds(self) -> float:
        """How long a process is stopped."""
        return self._a_while(20.0)

    def _latency(self) -> float:
        return self.rng.expovariate(1 / self._latency_seconds)

    def _a_while(self, mean_seconds: float) -> float:
        if not self.is_calm and self.rng.random() < self._night:
            return self.rng.uniform(HOUR / 6, 2 * HOUR)
        return self.rng.expovariate(1 / mean_seconds)


class OneDeath(Weather):
    """Good weather, but for one machine that dies once, at a chosen place, in a chosen way."""

    def __init__(self, name: str | None = None, place: int = 0, death: Death = Death.KILL) -> None:
        super().__init__(0, ())
        self._name, self._place, self._death = name, place, death
        self._troubled, self._latency_seconds, self._thread_seconds, self._night = 0.0, 0.01, 0.001, 0.0

    def places_to_live(self, name: str) -> int | None:
        return self._place if name == self._name and not self.deaths else None

    def death(self) -> Death:
        self.deaths += 1
        return self._death

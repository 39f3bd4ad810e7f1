"""Machines with a disk and a clock of their own, and the lives of the one process that each of them runs."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Protocol

from tests.fakes.coordinator_values import START
from tests.fakes.crashes import Killed
from tests.simulation.disk import Disk
from tests.simulation.loop import ProcessLoop, Schedule


class Death(StrEnum):
    """How a process ends."""

    KILL = "is killed"  # what it wrote is there
    POWER = "loses power"  # what it did not sync may not be


class Fates(Protocol):
    """What is drawn for processes; see `plan`."""

    def places_to_live(self, name: str) -> int | None:
        """How many places a new life comes to; None: it does not die."""

    def death(self) -> Death:
        """How it dies there."""

    def kept(self) -> float:
        """With which probability each change that was not synced survives a power cut."""

    def downtime_seconds(self) -> float:
        """How long until it is started again."""

    def thread_seconds(self) -> float:
        """How long a thread takes for its next piece of work."""


@dataclass(slots=True)
class Trace:
    """Everything that happened, in order; equal for equal seeds."""

    schedule: Schedule
    lines: list[tuple[float, str, str]] = field(default_factory=list)

    def note(self, who: str, what: str) -> None:
        self.lines.append((self.schedule.now, who, what))


class Life:
    """One process from its start to its death. Whatever it does after that does not happen."""

    def __init__(self, machine: Machine, dies_at: int | None) -> None:
        self.machine = machine
        self.loop = ProcessLoop(machine.world.schedule, machine.world.fates.thread_seconds)
        self.dies_at = dies_at
        self.places = 0

    @property
    def name(self) -> str:
        return self.machine.name

    def place(self, what: str, torn: Callable[[random.Random], object] | None = None) -> None:
        """A change is about to happen.

        Raises:
            Killed: it does not, but for the part of it that ``torn`` does.
        """
        if self.loop.is_dead:
            raise Killed
        self.places += 1
        self.machine.world.trace.note(self.name, what)
        if self.places == self.dies_at:
            if torn is not None:
                torn(self.machine.world.rng)
            self.machine.die()
            raise Killed


@dataclass(slots=True, kw_only=True)
class World:
    """What all machines have in common."""

    schedule: Schedule
    trace: Trace
    fates: Fates
    rng: random.Random
    died: Callable[[Life], None]
    outside: ProcessLoop  # for what happens to processes, and not in one


@dataclass(slots=True, kw_only=True)
class MachineClock:
    """The time of day of one machine, which may be set, and the seconds since the beginning."""

    schedule: Schedule
    ahead: timedelta = timedelta()

    def now(self) -> datetime:
        return START + timedelta(seconds=self.schedule.now) + self.ahead

    def monotonic(self) -> float:
        return self.schedule.now


class Machine:
    """Runs ``program`` over and over; its disk and clock outlive every process."""

    def __init__(self, name: str, world: World, program: Callable[[Life], Coroutine[Any, Any, None]]) -> None:
        self.name, self.world = name, world
        self.disk = Disk()
        self.clock = MachineClock(schedule=world.schedule)
        self.deaths: list[Death] = []
        self.lives: list[Life] = []
        self._program = program

    @property
    def life(self) -> Life:
        """The process that runs there, or ran last."""
        return self.lives[-1]

    @property
    def is_running(self) -> bool:
        return not self.life.loop.is_dead

    def now_ns(self) -> int:
        return int((self.clock.now() - START).total_seconds() * 1e9)

    def start(self) -> None:
        self.world.trace.note(self.name, "starts")
        life = Life(self, self.world.fates.places_to_live(self.name))
        self.lives.append(life)
        life.loop.create_task(self._program(life))

    def die(self, death: Death | None = None) -> None:
        """End the process now, and start another one later."""
        death = death or self.world.fates.death()
        self.world.trace.note(self.name, death)
        self.deaths.append(death)
        self.life.loop.is_dead = True
        self.world.died(self.life)
        if death is Death.POWER:
            self.disk.lose_power(self.world.rng, self.world.fates.kept())
        self.world.outside.call_later(self.world.fates.downtime_seconds(), self.start)

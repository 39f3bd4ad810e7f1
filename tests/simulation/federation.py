"""Plays one federation through what befalls it, to the end of its run, and says what is wrong with what came of it."""

from __future__ import annotations

import gc
import hashlib
import json
import logging
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import structlog

from common import chunks
from common.ids import SiteName
from common.peft_folder import LINEAGE_FILE, WEIGHTS_FILE
from common.terms import Terms
from common.tls import Role
from coordinator.app.publish_adapter import lineage, model_card, version_name
from coordinator.domain.values import Run, RunState, SiteOutcome
from site_agent.adapters.ledger_reading import check_ledger
from site_agent.domain.ledger import FOLDED_RPCS
from tests.fakes.coordinator_values import EVALUATOR
from tests.running import make_consortium
from tests.simulation.agents import AgentProgram, Book, Notes
from tests.simulation.coordinator import CoordinatorProgram
from tests.simulation.database import empty_database
from tests.simulation.disk import File
from tests.simulation.expected import NOTES, Rule, is_as_expected, terms_of
from tests.simulation.kept import KeptFiles
from tests.simulation.loop import ProcessLoop, Schedule
from tests.simulation.machines import Death, Machine, Trace, World
from tests.simulation.network import Network
from tests.simulation.plan import Weather
from tests.simulation.system_calls import ROOT, SystemCalls

COORDINATOR = "coordinator"
NAMES = (COORDINATOR, *NOTES, EVALUATOR)
CHUNK_BYTES = 250
LOOK_SECONDS = 10.0
# Longer than any message is on its way, any end unnoticed, and any wait between two attempts.
SETTLE_SECONDS = 100.0
# Whatever has not come to its end by then gets nowhere: a run takes a tenth of it.
MOST_EVENTS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a simulated run.

    Attributes:
        problems: What must not be; empty when all is well.
        places: How many places each machine came to over its lives.
    """

    problems: tuple[str, ...]
    deaths: dict[Death, int]
    places: dict[str, int]
    trace: list[tuple[float, str, str]]
    virtual_seconds: float

    @property
    def crashes(self) -> int:
        return sum(self.deaths.values())

    def places_before_the_end(self, name: str) -> int:
        """How many of its places a machine came to before the run had ended."""
        apart = ("starts", *Death)
        return sum(who == name and what not in apart and at < self.virtual_seconds for at, who, what in self.trace)

    @property
    def digest(self) -> str:
        """Of everything that happened, when, and where."""
        return hashlib.sha256("\n".join(map(str, self.trace)).encode()).hexdigest()


class Federation:
    """A coordinator, two sites and an evaluator, each on a machine of its own."""

    def __init__(self, weather: Weather, terms: Terms, seed: int) -> None:
        self.schedule = Schedule()
        self.trace = Trace(self.schedule)
        self.weather = weather
        self.rng = random.Random(f"world {seed}")
        self.book = Book()
        self.faults: list[str] = []
        self.kept = KeptFiles()
        self.outside = ProcessLoop(self.schedule, weather.thread_seconds)
        self.network = Network(self.outside, weather.fate, _certificates())
        self.world = World(
            schedule=self.schedule,
            trace=self.trace,
            fates=weather,
            rng=self.rng,
            died=self.network.died,
            outside=self.outside,
        )
        self.coordinator = CoordinatorProgram(self.network, terms)
        self.machines = {COORDINATOR: Machine(COORDINATOR, self.world, self.coordinator)}
        for name in NAMES[1:]:
            program = AgentProgram(
                self.network, NOTES.get(SiteName(name), Notes()), self.book, self.rng, self.rng.random
            )
            self.machines[name] = Machine(name, self.world, program)

    def play(self) -> Outcome:
        """From the first start until nothing moves any more; then the power fails once more, everywhere."""
        empty_database()
        with self._simulated(), _without_collection():
            for machine in self.machines.values():
                self.outside.call_later(self.rng.random(), machine.start)
            self.outside.call_later(self.weather.seconds_to_next_oddity(), self._be_odd)
            self._run_until(self._has_ended)
            ended_at = self.schedule.now
            self.weather.is_calm = True
            self._run_for(SETTLE_SECONDS)
            deaths = [death for machine in self.machines.values() for death in machine.deaths]
            for machine in self.machines.values():
                if machine.is_running:
                    machine.die(Death.POWER)
            self._run_for(SETTLE_SECONDS)
            happened = list(self.trace.lines)  # looking at what came of it reads and writes files, too
            problems = tuple(self._problems())
            for loop in (self.outside, *(life.loop for machine in self.machines.values() for life in machine.lives)):
                loop.dispose()
        return Outcome(
            problems=problems,
            deaths={death: deaths.count(death) for death in Death},
            places={name: sum(life.places for life in each.lives) for name, each in self.machines.items()},
            trace=happened,
            virtual_seconds=ended_at,
        )

    @contextmanager
    def _simulated(self) -> Iterator[None]:
        def keep(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
            self.faults.append(f"{self.schedule.now:.3f} {event.get('event')}: {event.get('exc_info')!r}")
            raise structlog.DropEvent

        before, hooks = structlog.get_config(), sys.get_asyncgen_hooks()
        structlog.configure(processors=[keep], wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
        sys.set_asyncgen_hooks(finalizer=lambda generator: None)  # dead processes tidy nothing up
        try:
            with SystemCalls(self.machines, self.rng).in_place(), pytest.MonkeyPatch.context() as patch:
                patch.setattr(chunks, "MAX_CHUNK_BYTES", CHUNK_BYTES)
                yield
        finally:
            structlog.configure(**before)
            sys.set_asyncgen_hooks(*hooks)

    def _run_for(self, seconds: float) -> None:
        ends_at = self.schedule.now + seconds
        self._run_until(lambda: self.schedule.now >= ends_at)

    def _run_until(self, holds: Callable[[], bool]) -> None:
        """Ask every LOOK_SECONDS, until it gets nowhere, or something is wrong already."""
        is_over = False

        def look() -> None:
            nonlocal is_over
            is_over = holds() or len(self.trace.lines) > MOST_EVENTS or bool(self._faults())
            if not is_over:
                self.outside.call_later(LOOK_SECONDS, look)

        look()
        while not is_over:
            self.schedule.step()

    def _faults(self) -> list[str]:
        """What a service says of itself that it must not have to say: nothing fails here but processes and messages."""
        world = self.coordinator.world
        failed = [] if world is None else [*world.observer.failures, *world.observer.watch_failures]
        kept = self.kept.faults(self.run, self.machines[COORDINATOR].disk.files)
        return self.faults + self.book.refused + kept + [f"the coordinator met {failure!r}" for failure in failed]

    def _be_odd(self) -> None:
        """Set a clock, or stop a process."""
        if self.weather.is_calm:
            return
        machine = self.machines[self.rng.choice(NAMES)]
        if self.rng.random() < 0.5:
            machine.clock.ahead += self.weather.clock_step()
            self.trace.note(machine.name, "clock is set")
        elif machine.lives and machine.is_running:
            machine.life.loop.stopped_until = self.schedule.now + self.weather.stop_seconds()
            self.trace.note(machine.name, "is stopped")
        self.outside.call_later(self.weather.seconds_to_next_oddity(), self._be_odd)

    @property
    def run(self) -> Run | None:
        """The run as the coordinator that is up holds it."""
        world = self.coordinator.world
        if world is None or not self.machines[COORDINATOR].is_running or not world.driver.runs:
            return None
        return world.run

    def _has_ended(self) -> bool:
        if self.run is None or self.run.state.is_open:
            return False
        return all(machine.is_running for machine in self.machines.values()) and not list(self._open_stages())

    def _open_stages(self) -> Iterator[str]:
        for name in NAMES[1:]:
            for path, content in self.machines[name].disk.files().items():
                if path.endswith("/assignment.json") and json.loads(content)["state"]["stage"] not in _ENDED:
                    yield f"{name}: {path} is open"

    def _problems(self) -> Iterator[str]:
        yield from self._faults()
        for machine in self.machines.values():
            for life in machine.lives:
                yield from (f"{machine.name}: {failure}" for failure in life.loop.failures)
            main = machine.life.loop.tasks[0]
            if main.done():
                yield f"{machine.name} ended: {main!r}"
        if self.run is None or self.run.state is not RunState.COMPLETED:
            yield f"the run is {self.run and (self.run.state, self.run.reason)}"
            return
        yield from self._differing(self.run)
        yield from self._lost(self.run)
        yield from (f"{name} was finished {count} times" for name, count in self.book.finished.items() if count > 1)
        yield from self._open_stages()
        yield from self._orphans()
        yield from self._writable()
        yield from self._unrecorded()

    def _differing(self, run: Run) -> Iterator[str]:
        """Versions whose weights are not those of an undisturbed run with these rosters."""
        files = self.machines[COORDINATOR].disk.files()
        rule, rosters = Rule(run.terms.aggregation.strategy), list[tuple[tuple[SiteName, int], ...]]()
        for past in run.rounds:
            for entry in past.roster:
                if entry.outcome not in (SiteOutcome.ACCEPTED, SiteOutcome.STRAGGLER):
                    yield f"round {past.number}: {entry.site} is {entry.outcome}, {entry.reason}"
            rosters.append(tuple((entry.site, entry.lora_rank or run.terms.lora.lora_rank) for entry in past.accepted))
            folder = f"srv/state/registry/{run.terms.name}/{version_name(past.number)}"
            if not is_as_expected(files.get(f"{folder}/{WEIGHTS_FILE}"), tuple(rosters), rule):
                yield f"round {past.number}: the weights differ from those of an undisturbed run"
            if files.get(f"{folder}/README.md") != model_card(run, past).encode():
                yield f"round {past.number}: the model card differs"
            if json.loads(files.get(f"{folder}/{LINEAGE_FILE}") or "0") != json.loads(json.dumps(lineage(run, past))):
                yield f"round {past.number}: the lineage differs"
        if len(run.rounds) != run.terms.rounds.count:
            yield f"{len(run.rounds)} rounds"

    def _lost(self, run: Run) -> Iterator[str]:
        entries = {entry.assignment_id: entry for past in run.rounds for entry in past.roster}
        for assignment_id, digest in self.book.accepted.items():
            entry = entries.get(assignment_id)
            if entry is None:
                if run.first_adapter is None or run.first_adapter.digest != digest:
                    yield f"the first adapter {assignment_id} was accepted, and is another one"
            elif entry.update is None or entry.update.file.digest != digest:
                yield f"the update {assignment_id} was accepted, and is lost"

    def _unrecorded(self) -> Iterator[str]:
        """Messages that left a site and are not in its ledger, whose chain holds."""
        for name in NAMES[1:]:
            left = Counter(
                method if method.rpartition("/")[2] in FOLDED_RPCS else digest
                for who, method, digest in self.network.left
                if who == name
            )
            recorded: Counter[str] = Counter()
            for row in check_ledger(Path(f"/{ROOT}/{name}/srv/state")).rows():
                recorded[f"/fedmedlora.v1.RoundService/{row.rpc}" if row.rpc in FOLDED_RPCS else row.first_digest] += (
                    row.count if row.rpc in FOLDED_RPCS else 1
                )
            yield from (f"{name}: {what} left {count} times unrecorded" for what, count in (left - recorded).items())

    def _orphans(self) -> Iterator[str]:
        """Files that nobody will look at again."""
        for name in self.machines[COORDINATOR].disk.names():
            is_left = name.startswith("srv/state/updates/") or ".draft" in name or name.endswith((".partial", ".part"))
            if is_left:
                yield f"{COORDINATOR}: {name} is left"
        for agent in NAMES[1:]:
            for name in self.machines[agent].disk.names():
                is_own = name.startswith("srv/state/personal/") and name.endswith(".safetensors")
                if name.count("/") > 3 and not is_own and not name.endswith("/assignment.json"):
                    yield f"{agent}: {name} is left"

    def _writable(self) -> Iterator[str]:
        """Published files that could be changed: their weights are what agents download."""
        disk = self.machines[COORDINATOR].disk
        for name in disk.names():
            entry = disk.find(tuple(name.split("/")))
            if name.startswith("srv/state/registry/") and isinstance(entry, File) and entry.mode & 0o222:
                yield f"{COORDINATOR}: {name} can be written to"


@contextmanager
def _without_collection() -> Iterator[None]:
    """Nothing is finalised at a moment of its own choice; and it is faster."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


_ENDED = ("done", "declined", "refused", "cancelled")


def simulate(seed: int) -> Outcome:
    """A run with everything that ``seed`` draws."""
    return Federation(Weather(seed, NAMES), terms_of_seed(seed), seed).play()


def terms_of_seed(seed: int) -> Terms:
    """Each rule in its turn, and now and then a quorum of one site."""
    rule = list(Rule)[seed % len(Rule)]
    # A site that is left out of a partial round may have trained all the same: nobody would know what it brings along.
    return terms_of(2 if rule is Rule.OWN else random.Random(f"terms {seed}").choice((1, 2, 2)), rule)


@cache
def _certificates() -> dict[str, bytes]:
    """Made once: whom the coordinator takes each agent for."""
    with tempfile.TemporaryDirectory() as folder:
        consortium = make_consortium(Path(folder))
        roles = {name: Role.EVALUATOR if name == EVALUATOR else Role.SITE for name in NAMES[1:]}
        folders = {name: consortium.identity(name, role) for name, role in roles.items()}
        return {name: (path / "certificate.pem").read_bytes() for name, path in folders.items()}

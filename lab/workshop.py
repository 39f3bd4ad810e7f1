"""Has cells done by the sites' own trainer process, each once, and updates combined by the coordinator's own code.

Everything lies below one folder::

    cells/<key>/        the order folder of a cell (`site_agent.orders`): done when it holds result.json
    combined/<key>/     a round's candidate: adapter.safetensors, what the strategy keeps (state.safetensors), and
                        outcome.json, written last
    derived/<key>/      an adapter that comes of others without training (`lab.derived`): adapter.safetensors, and
                        outcome.json, written last

Killed at any instant, it goes on from what is there; a trainer that had begun goes on from its checkpoint.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from common.errors import FedMedError, Reason
from common.files import make_folder, write_whole
from common.ids import Digest, SiteName
from common.weights_io import file_digest
from coordinator.app.aggregate_round import RoundFiles, aggregate
from coordinator.domain.values import AdapterFile, RosterEntry, Run, Update
from lab.cells import Adapter, Cell, Done
from lab.derived import Derived, key_of
from lab.slots import Priority, Slots
from site_agent.adapters.order_folder import read_outcome
from site_agent.app.ports import Order, ProgressRelay, Result
from site_agent.orders import (
    ADAPTER_FILE,
    FAILURE_FILE,
    OWN_FILE,
    PERSONAL_FILE,
    SIDE_FILE,
    UPDATE_FILE,
    Failure,
    Progress,
)

WEIGHTS_FILE, STATE_FILE, OUTCOME_FILE = "adapter.safetensors", "state.safetensors", "outcome.json"
_T = TypeVar("_T")


class Trainer(Protocol):
    """As the agent has it: does an order in its folder, unless it was done already."""

    async def perform(self, folder: Path, order: Order, relay: ProgressRelay) -> Result | Failure | None:
        """The result, or why there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Combination:
    """What a round's candidate is made of: accepted entries sorted by site, and their updates in that order.

    Attributes:
        previous / state: As `coordinator.app.aggregate_round.RoundFiles` has them.
    """

    run: Run
    accepted: Sequence[RosterEntry]
    updates: Sequence[Adapter]
    before: Adapter
    previous: Adapter | None = None
    state: Adapter | None = None

    @property
    def key(self) -> str:
        """A function of the terms of aggregation and of all that is combined."""
        digests = [one.file.digest for one in (*self.updates, self.before)]
        entries = [
            [entry.site, entry.lora_rank, _counted(entry.update), asdict(entry.scores) if entry.scores else None]
            for entry in self.accepted
            if entry.update
        ]
        also = [one.file.digest if one else None for one in (self.previous, self.state)]
        terms = self.run.terms
        return key_of(asdict(terms.aggregation), terms.lora.lora_rank, len(self.run.rounds), digests, entries, also)


def _counted(update: Update) -> list[Any]:
    """What of an update a candidate depends on: neither who signed it nor under which policy it was given."""
    return [update.num_examples, update.num_label_tokens, [asdict(each) for each in update.tasks]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Combined:
    """A candidate, each site's weight, and what the strategy keeps, if it keeps anything."""

    candidate: Adapter
    weights: tuple[tuple[SiteName, float], ...]
    state: Adapter | None = None


class Workshop(Protocol):
    """Where the work of an experiment is done, or estimated."""

    async def perform(self, cell: Cell, priority: Priority) -> Done:
        """Do a cell, or find it done."""

    async def combine(self, asked: Combination, priority: Priority) -> Combined:
        """Make a round's candidate, or find it made."""

    async def derive(self, wanted: Derived, priority: Priority) -> Adapter:
        """Make an adapter of others, or find it made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """Where cells and candidates lie."""

    folder: Path

    def cell(self, cell: Cell) -> Path:
        """The order folder of a cell."""
        return self.folder / "cells" / cell.key

    def result_of(self, cell: Cell) -> Done | None:
        """What came of a cell that was done."""
        folder = self.cell(cell)
        outcome = read_outcome(folder)
        return None if outcome is None or isinstance(outcome, Failure) else _done(folder, outcome)

    def combined(self, asked: Combination) -> Path:
        """The folder of a candidate."""
        return self.folder / "combined" / asked.key

    def derived(self, wanted: Derived) -> Path:
        """The folder of an adapter that comes of others."""
        return self.folder / "derived" / wanted.key

    def adapter_of(self, wanted: Derived) -> Adapter | None:
        """One that was made."""
        folder = self.derived(wanted)
        document = _outcome(folder)
        return None if document is None else _adapter(document, folder / WEIGHTS_FILE)

    def candidate_of(self, asked: Combination) -> Combined | None:
        """A candidate that was made."""
        folder = self.combined(asked)
        document = _outcome(folder)
        if document is None:
            return None
        state = document.get("state")
        return Combined(
            candidate=_adapter(document, folder / WEIGHTS_FILE),
            weights=tuple((SiteName(site), float(weight)) for site, weight in document["weights"]),
            state=None if state is None else _adapter(state, folder / STATE_FILE),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkingWorkshop:
    """Does what is not done yet; ``tell`` is given each cell that it has done, and what came of it."""

    store: Store
    trainer: Trainer
    slots: Slots
    tell: Callable[[Cell, Done], None]
    _asked: dict[str, asyncio.Task[Any]] = field(default_factory=dict)

    async def perform(self, cell: Cell, priority: Priority) -> Done:
        """Do a cell, or find it done.

        Raises:
            FedMedError: TRAINER_CRASHED, with why and where.
            OutOfTimeError: it was not begun.
        """
        return await self._once(cell.key, lambda: self._perform(cell, priority))

    async def combine(self, asked: Combination, priority: Priority) -> Combined:
        """A round's candidate, made in a thread."""
        return await self._once(f"combined {asked.key}", lambda: self._combine(asked, priority))

    async def derive(self, wanted: Derived, priority: Priority) -> Adapter:
        """An adapter of others, made in a thread."""
        return await self._once(f"derived {wanted.key}", lambda: self._derive(wanted, priority))

    async def _once(self, key: str, work: Callable[[], Coroutine[Any, Any, _T]]) -> _T:
        if key not in self._asked:
            self._asked[key] = asyncio.create_task(work())
        done: _T = await asyncio.shield(self._asked[key])
        return done

    async def _perform(self, cell: Cell, priority: Priority) -> Done:
        if (done := self.store.result_of(cell)) is not None:
            return done
        async with self.slots.hold(priority):
            folder = self.store.cell(cell)
            make_folder(folder)
            (folder / FAILURE_FILE).unlink(missing_ok=True)  # what failed once is tried again
            for name, adapter in ((ADAPTER_FILE, cell.adapter), (SIDE_FILE, cell.side), (OWN_FILE, cell.own)):
                if adapter is not None:
                    link = folder / name
                    link.unlink(missing_ok=True)
                    link.symlink_to(adapter.path.resolve())
            outcome = await self.trainer.perform(folder, cell.order, _silent)
        assert outcome is not None, "nobody asks it to stop"
        if isinstance(outcome, Failure):
            message = f"{cell.says}: {outcome.reason}: {outcome.detail} ({folder})"
            raise FedMedError(Reason.TRAINER_CRASHED, message)
        done = _done(folder, outcome)
        self.tell(cell, done)
        return done

    async def _combine(self, asked: Combination, priority: Priority) -> Combined:
        known = self.store.candidate_of(asked)
        if known is not None:
            return known
        async with self.slots.hold(priority):
            return await asyncio.to_thread(self._combine_now, asked)

    def _combine_now(self, asked: Combination) -> Combined:
        folder = self.store.combined(asked)
        make_folder(folder)
        made = aggregate(
            asked.run,
            asked.accepted,
            RoundFiles(
                updates=[update.path for update in asked.updates],
                current=asked.before.path,
                previous=asked.previous.path if asked.previous else None,
                state=asked.state.path if asked.state else None,
            ),
            folder / WEIGHTS_FILE,
            folder / STATE_FILE,
        )
        document = {**asdict(made.candidate), "weights": made.weights, "state": made.state and asdict(made.state)}
        write_whole(folder / OUTCOME_FILE, json.dumps(document).encode())
        known = self.store.candidate_of(asked)
        assert known is not None, "it was just written"
        return known

    async def _derive(self, wanted: Derived, priority: Priority) -> Adapter:
        known = self.store.adapter_of(wanted)
        if known is not None:
            return known
        async with self.slots.hold(priority):
            return await asyncio.to_thread(self._derive_now, wanted)

    def _derive_now(self, wanted: Derived) -> Adapter:
        folder = self.store.derived(wanted)
        make_folder(folder)
        made = wanted.write(folder / WEIGHTS_FILE)
        write_whole(folder / OUTCOME_FILE, json.dumps(asdict(made)).encode())
        return Adapter(file=made, path=folder / WEIGHTS_FILE)


def _outcome(folder: Path) -> dict[str, Any] | None:
    """What is said of the adapter in the folder, once it is whole."""
    try:
        document: dict[str, Any] = json.loads((folder / OUTCOME_FILE).read_bytes())
    except FileNotFoundError:
        return None
    return document


def _adapter(document: dict[str, Any], path: Path) -> Adapter:
    file = AdapterFile(digest=Digest(document["digest"]), size_bytes=document["size_bytes"])
    return Adapter(file=file, path=path)


async def _silent(progress: Progress) -> None:
    """Progress inside a cell is in its folder, for whoever looks."""


def _done(folder: Path, result: Result) -> Done:
    return Done(result=result, made=_written(folder / UPDATE_FILE), kept=_written(folder / PERSONAL_FILE))


def _written(path: Path) -> Adapter | None:
    if not path.exists():
        return None
    return Adapter(file=AdapterFile(digest=file_digest(path), size_bytes=path.stat().st_size), path=path)

"""A workshop that does nothing: it counts the cells that are yet to be done, and how long they will take.

Of an adapter that is not there yet it makes up a name, a function of the cell, so that what is shared later is shared
here too. Seconds come from the cells that were done in the same folder, or from a laptop's core.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.ids import digest_of
from common.terms import Task
from coordinator.domain.values import AdapterFile
from lab.cells import Adapter, Cell, Done
from lab.derived import Derived
from lab.slots import Priority
from lab.workshop import WEIGHTS_FILE, Combination, Combined, Store, Workshop
from site_agent.adapters.order_folder import read_outcome
from site_agent.orders import (
    ORDER,
    ORDER_FILE,
    PERSONAL_FILE,
    EvaluateOrder,
    EvaluateResult,
    F1Counts,
    InitialiseOrder,
    TaskCounts,
    TaskScores,
    TrainOrder,
    TrainResult,
)

# Seconds a sentence on one core of a laptop with SmolLM2-135M: training, decoding, loss alone.
_TRAINING, _DECODING, _LOSS = "training", "decoding", "loss"
_USUAL_SECONDS = {_TRAINING: 0.4, _DECODING: 0.9, _LOSS: 0.15}
_START_SECONDS = 9.0  # of a trainer process
_NOTHING = F1Counts(true_positives=0, predicted=0, gold=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """A cell that is yet to be done, and how long it will take."""

    says: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EstimatingWorkshop:
    """Finds what is done; of what is not, it notes the cost. First adapters, which cost nothing, ``working`` makes."""

    store: Store
    working: Workshop
    rates: dict[str, float]
    pending: dict[str, Pending] = field(default_factory=dict)
    done: set[str] = field(default_factory=set)

    async def perform(self, cell: Cell, priority: Priority) -> Done:
        """What came of a cell, or something in its shape."""
        order = cell.order
        if isinstance(order, InitialiseOrder):
            return await self.working.perform(cell, priority)
        done = self.store.result_of(cell)
        if done is not None:
            self.done.add(cell.key)
            return done
        seconds = _START_SECONDS + cell.examples * self.rates[_kind(order)]
        self.pending.setdefault(cell.key, Pending(says=cell.says, seconds=seconds))
        return self._nominal(cell, order)

    async def combine(self, asked: Combination, priority: Priority) -> Combined:
        """The candidate, or a name for it."""
        known = self.store.candidate_of(asked)
        if known is not None:
            return known
        weights = tuple((entry.site, 1 / len(asked.accepted)) for entry in asked.accepted)
        candidate = _named(asked.key, self.store.combined(asked) / WEIGHTS_FILE)
        return Combined(candidate=candidate, weights=weights)

    async def derive(self, wanted: Derived, priority: Priority) -> Adapter:
        """The adapter, which takes no time where there is what it is made of; else a name for it."""
        if not any(source.is_nominal for source in wanted.sources):
            return await self.working.derive(wanted, priority)
        return _named(wanted.key, self.store.derived(wanted) / WEIGHTS_FILE)

    def _nominal(self, cell: Cell, order: TrainOrder | EvaluateOrder) -> Done:
        match order:
            case TrainOrder():
                made = _named(cell.key, self.store.cell(cell))
                counts = _nominal_counts(order, cell.examples)
                result = TrainResult(
                    num_examples=sum(each.num_examples for each in counts),
                    num_label_tokens=sum(each.num_label_tokens for each in counts),
                    mean_loss=1.0,
                    steps=1,
                    seconds=1.0,
                    tokens_per_second=1.0,
                    padding_share=0.0,
                    peak_memory_bytes=1,
                    tasks=counts,
                )
                kept = None if order.own is None else _named(f"{cell.key} own", self.store.cell(cell) / PERSONAL_FILE)
                return Done(result=result, made=made, kept=kept)
            case EvaluateOrder():
                tasks = _nominal_scores(order.task.tasks)
                return Done(
                    result=EvaluateResult(
                        mean_loss=1.0,
                        num_label_tokens=len(tasks),
                        num_examples=len(tasks),
                        num_passages=1,
                        strict=_NOTHING,
                        lenient=_NOTHING,
                        tasks=tasks,
                    )
                )


def _nominal_counts(order: TrainOrder, examples: int) -> tuple[TaskCounts, ...]:
    """As many for each task that the site trains of the run's: in numbers that admission lets in."""
    count = max(1, examples)
    tasks = [task for task in order.task.tasks if task in order.tasks]
    return tuple(TaskCounts(task=task, num_examples=count, num_label_tokens=count) for task in tasks)


def _nominal_scores(tasks: Sequence[Task]) -> tuple[TaskScores, ...]:
    """Of each task: a gate may compare any of them."""
    return tuple(
        TaskScores(task=task, mean_loss=1.0, num_label_tokens=1, num_examples=1, strict=_NOTHING, lenient=_NOTHING)
        for task in tasks
    )


def measured_rates(store: Store) -> dict[str, float]:
    """Seconds a sentence of every kind of work, from the cells that were done in this folder."""
    measured: dict[str, list[tuple[float, int]]] = {kind: [] for kind in _USUAL_SECONDS}
    for kind, seconds, examples in _measurements(store.folder / "cells"):
        measured[kind].append((seconds, examples))
    return {
        kind: sum(seconds for seconds, _ in rows) / sum(examples for _, examples in rows) if rows else usual
        for (kind, usual), rows in zip(_USUAL_SECONDS.items(), measured.values(), strict=True)
    }


def _measurements(cells: Path) -> Iterator[tuple[str, float, int]]:
    for folder in cells.glob("*"):
        outcome = read_outcome(folder)
        if not isinstance(outcome, TrainResult | EvaluateResult) or not outcome.num_examples:
            continue
        order = ORDER.validate_json((folder / ORDER_FILE).read_bytes())
        epochs = order.training.local_epochs if isinstance(order, TrainOrder) else 1
        yield _kind(order), outcome.seconds, outcome.num_examples * epochs


def _kind(order: InitialiseOrder | TrainOrder | EvaluateOrder) -> str:
    if isinstance(order, EvaluateOrder):
        return _DECODING if order.generate else _LOSS
    return _TRAINING


def _named(key: str, path: Path) -> Adapter:
    file = AdapterFile(digest=digest_of(key.encode()), size_bytes=1)
    return Adapter(file=file, path=path, is_nominal=True)

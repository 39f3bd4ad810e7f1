"""A small lab: generated notes as corpora, the tiny model, and the sites' own trainer, here in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.ids import SiteName
from demo.notes.generate import Split
from demo.notes.write import write_corpus
from lab.arms import Bench
from lab.cells import Cell, Done
from lab.corpora import Corpora
from lab.experiment import Experiment
from lab.rounds import Machine
from lab.slots import Slots
from lab.workshop import Store, WorkingWorkshop
from site_agent.adapters.order_folder import read_outcome, write_order
from site_agent.app.ports import Order, ProgressRelay, Result
from site_agent.orders import Failure
from site_agent.trainer.base_model_files import describe_base_model
from site_agent.trainer.runner import run_order
from tests.tiny_model import make_tiny_model

CORPORA = ("north", "south", "abroad")
SIZES = {Split.TRAIN: 24, Split.DEV: 6, Split.TEST: 8}
TERMS: dict[str, dict[str, Any]] = {
    "lora": {"lora_rank": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]},
    "task": {"entity_types": ["drug", "problem"], "max_new_tokens": 8},
    "training": {"examples_per_round": 4, "learning_rate": 0.01},
    "rounds": {"count": 2},
    "gate": {"metric": "none"},
}
SITES = [{"name": name, "corpus": name, "sentences": 8} for name in ("north", "south")]


def experiment(**tables: object) -> Experiment:
    """An experiment with two sites and one corpus that they have not seen."""
    document = {
        "name": "small",
        "seeds": [1],
        "sites": SITES,
        "validation_sentences": 3,
        "test": {"sentences": 3, "external": ["abroad"]},
        "arms": [{"name": "together", "kind": "federated"}],
        "terms": TERMS,
        **tables,
    }
    return Experiment.model_validate(document)


@dataclass
class TrainerHere:
    """The sites' own trainer, or what does ``work`` in its place, without its process.

    ``performed`` are the folders that it was given to work on.
    """

    performed: list[Path] = field(default_factory=list)
    before: Callable[[Path], None] = lambda folder: None
    work: Callable[[Path], None] | None = None

    async def perform(self, folder: Path, order: Order, relay: ProgressRelay) -> Result | Failure:
        outcome = read_outcome(folder)
        if outcome is not None:
            return outcome
        write_order(folder, order)
        self.before(folder)
        self.performed.append(folder)
        await asyncio.to_thread(run_order, folder, self.work)
        outcome = read_outcome(folder)
        assert outcome is not None
        return outcome


@dataclass
class Lab:
    """Corpora and a base model in ``root``, and what was told."""

    root: Path
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        write_corpus(self.root / "corpora", CORPORA, 7, SIZES)
        make_tiny_model(self.root / "model")

    @property
    def store(self) -> Store:
        return Store(folder=self.root / "out")

    def workshop(self, trainer: TrainerHere, slots: Slots | None = None) -> WorkingWorkshop:
        def tell(cell: Cell, done: Done) -> None:
            self.told.append(cell.says)

        return WorkingWorkshop(store=self.store, trainer=trainer, slots=slots or Slots(1, lambda: False), tell=tell)

    def bench(self, experiment: Experiment, workshop: WorkingWorkshop) -> Bench:
        model = self.root / "model"
        return Bench(
            experiment=experiment,
            corpora=Corpora(root=self.root / "corpora", cache=self.root / "out" / "notes"),
            machine=Machine(base_model=str(model), device="cpu"),
            base_model=describe_base_model(model, "tiny"),
            workshop=workshop,
        )


NORTH, SOUTH = SiteName("north"), SiteName("south")

"""A *cell*: one order of the trainer with what it works on, under a key that is a function of all that matters.

Equal cells have equal keys, whoever asks for them, so that their work is done once; a cell that was done is found
again by its key. Where files lie, on which device and how often checkpoints are written is no part of it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from coordinator.domain.values import AdapterFile
from lab.corpora import NoteFile
from site_agent.orders import ORDER, EvaluateOrder, InitialiseOrder, Order, Result, TrainOrder

_SOFTWARE = ("fedmedlora", "peft", "torch", "transformers")
# Raised when the trainer gives other results for the same order: then everything is done again.
_EDITION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter's file and where it lies.

    Attributes:
        is_nominal: It stands for one that is yet to be made: there is no file.
    """

    file: AdapterFile
    path: Path
    is_nominal: bool = False


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One order, the notes that it names, and the adapters that lie in its folder.

    Attributes:
        notes: The order's ``data_files``, in its order.
        asked: The order's ``asked_files``, in its order.
        adapter / side / own: What it starts from, what is added beside it, and the site's own factors.
        says: What is done when it is done, in words for a person.
    """

    order: Order
    notes: tuple[NoteFile, ...] = ()
    asked: tuple[NoteFile, ...] = ()
    adapter: Adapter | None = None
    side: Adapter | None = None
    own: Adapter | None = None
    says: str

    @cached_property
    def key(self) -> str:
        """32 hex digits."""
        source = replace(self.order.base_model, location="", device="", threads=0)
        match self.order:
            case TrainOrder() as train:
                order: Order = replace(train, base_model=source, data_files=(), checkpoint_seconds=0.0)
            case EvaluateOrder() as evaluate:
                order = replace(evaluate, base_model=source, data_files=(), asked_files=())
            case InitialiseOrder() as initialise:
                order = replace(initialise, base_model=source)
        parts = [f"edition {_EDITION}", *(f"{name} {version(name)}" for name in _SOFTWARE)]
        parts += [note.digest for note in self.notes]
        parts += [f"asked {note.digest}" for note in self.asked]
        parts.append(self.adapter.file.digest if self.adapter else "no adapter")
        parts += [f"{name} {one.file.digest}" for name, one in (("side", self.side), ("own", self.own)) if one]
        # Without defaults: a setting that a later version adds, and that is not used, leaves the key as it was.
        key = hashlib.sha256(ORDER.dump_json(order, exclude_defaults=True))
        for part in (type(order).__name__, *parts):
            key.update(b"\0" + part.encode())
        return key.hexdigest()[:32]

    @property
    def examples(self) -> int:
        """Sentences that it takes through the model, about."""
        held = sum(note.sentences for note in self.notes)
        match self.order:
            case TrainOrder(training=training):
                return min(held, training.examples_per_round or held) * training.local_epochs
            case EvaluateOrder():
                return held
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What came of a cell: its result, and where it made them, an update (or first adapter) and what the site keeps."""

    result: Result
    made: Adapter | None = None
    kept: Adapter | None = None

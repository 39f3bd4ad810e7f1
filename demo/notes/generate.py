"""All notes of one site: documents of several passages, in the site's style and with its own mix of cases.

Everything is a function of the site's number, the seed and the counts. It writes no file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import count

from demo.notes.dice import Dice
from demo.notes.house import HOUSE_SETTINGS, House, load_house
from demo.notes.knowledge import Condition, load_knowledge
from demo.notes.note import Draft, Note
from demo.notes.patient import make_case
from site_agent.trainer.extraction.passages import Passage

# One condition in so many is not seen at a site; which, differs from site to site.
_UNSEEN_CONDITIONS = 5
# How much commoner a site's commonest specialties are than its rarest.
_SPECIALTY_WEIGHTS = (1, 1, 2, 4)
# One name in so many stays out of a site's train documents, so that its test documents hold unseen entities.
_HELD_OUT = 5
# Documents in a row without a new passage, before a split is given up.
_FRUITLESS_DOCUMENTS = 50


class Split(StrEnum):
    """What a document is for."""

    TRAIN = "train"
    DEV = "dev"
    TEST = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One passage with what the corpus format says about it beside its annotation."""

    passage: Passage
    source: str
    split: Split


def house_of(site_index: int) -> House:
    """The style of site ``site_index``: the three take turns."""
    names = tuple(HOUSE_SETTINGS)
    return load_house(names[site_index % len(names)])


def generate_site(site_index: int, *, seed: int, passages: Mapping[Split, int]) -> dict[Split, tuple[Record, ...]]:
    """The records of site ``site_index`` (from 0), exactly so many passages a split, no document in two splits.

    No sentence occurs twice at a site.

    Raises:
        ValueError: If ``seed`` is negative, or more passages are asked for than the tables give different ones.
    """
    site = _Site(site_index, seed)
    return {split: tuple(site.records(split, passages.get(split, 0))) for split in Split}


class _Site:
    """A site's mix of cases, what it keeps for testing, and the sentences it has written."""

    def __init__(self, index: int, seed: int) -> None:
        self.index, self.seed = index, seed
        self.house = house_of(index)
        dice = Dice(seed, index, 0)
        self.knowledge = load_knowledge()
        self.conditions = self._mix(dice)
        self.held_out = self._held_out(dice)
        self.written: set[str] = set()

    def records(self, split: Split, wanted: int) -> Iterator[Record]:
        dice = Dice(self.seed, self.index, 1 + list(Split).index(split))
        made = fruitless = 0
        for number in count():
            if made == wanted:
                return
            document = f"{self.house.name}-{self.index}-{split}-{number:05d}"
            drafts = self._document(split, dice)[: wanted - made]
            fruitless = 0 if drafts else fruitless + 1
            if fruitless == _FRUITLESS_DOCUMENTS:
                raise ValueError(f"{split}: expected {wanted} different passages, got {made} from these tables")
            for part, draft in enumerate(drafts):
                made += 1
                passage = draft.as_passage(f"{document}-{part}", document)
                yield Record(passage=passage, source=f"synthetic {self.house.genre}", split=split)

    def _mix(self, dice: Dice) -> tuple[Condition, ...]:
        """The conditions of this site, each as often as its specialty weighs."""
        seen = [one for one in self.knowledge.conditions if self.house.setting in one.settings]
        kept = [one for place, one in enumerate(seen) if (place + self.index) % _UNSEEN_CONDITIONS]
        specialties = dice.shuffled(sorted({one.specialty for one in kept}))
        weights = {name: _SPECIALTY_WEIGHTS[rank % len(_SPECIALTY_WEIGHTS)] for rank, name in enumerate(specialties)}
        return tuple(one for one in kept for _ in range(weights[one.specialty]))

    def _held_out(self, dice: Dice) -> frozenset[str]:
        names = frozenset[str]().union(*(one.names for one in self.conditions))
        return frozenset(name for name in sorted(names) if dice.below(_HELD_OUT) == 0)

    def _document(self, split: Split, dice: Dice) -> list[Draft]:
        """The passages of one new patient's note."""
        held_out = self.held_out if split is Split.TRAIN else frozenset()
        condition = dice.pick([one for one in self.conditions if one.name not in held_out])
        note = Note(self.house, make_case(condition, self.house, self.knowledge, held_out, dice), dice, self.written)
        drafts = [note.passage(uses) for uses in self.house.passages]
        return [draft for draft in drafts if len(draft.sentences) > 1]

"""What two sets of passages share that must not stand on both sides of a split. It shows no text.

In this order, each pair of passages by its first reason: one patient, one document, one text, nearly one text. Texts
are compared by their words alone (letters and digits, case folded). Short ones say the same by chance and are left
out. Nearly one text: most runs of words of one passage stand in the other (containment of shingles, Broder 1997).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from itertools import chain

from site_agent.trainer.extraction.passages import Passage

# Fewer words are a heading or a phrase that every note has.
FEWEST_WORDS = 8
SHINGLE_WORDS = 5
# So much of the shorter of two texts stands in the other one.
NEARLY = 0.8
# What stands in more passages than so many, of all sets together, is a phrase of the house, and no sign of a copy.
MOST_COMMON = 50
_WORD = re.compile(r"\w+")


class Shared(StrEnum):
    """What two passages have in common."""

    PATIENT = "the patient"
    DOCUMENT = "the document"
    TEXT = "the text"
    NEARLY_TEXT = "nearly the text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """The passage at ``first`` of one set and the one at ``second`` of the other share something."""

    shared: Shared
    first: int
    second: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Print:
    """What of a passage is compared: digests instead of text."""

    patient: str | None
    document: str
    text: bytes | None
    shingles: frozenset[bytes]


def find_leaks(first: Iterable[Passage], second: Iterable[Passage], others: Iterable[Passage] = ()) -> Iterator[Leak]:
    """Each passage of ``second`` that shares something with ``first``, and the first passage that it shares it with.

    ``others`` are the further sets of a split: they count for how common a run of words is, as when it was made.
    """
    prints, seconds = list(map(_print, first)), list(map(_print, second))
    index = _Index(prints, _common(chain(prints, seconds, map(_print, others))))
    for place, one in enumerate(seconds):
        found = index.match(one)
        if found is not None:
            yield Leak(shared=found[0], first=found[1], second=place)


def same_texts(passages: Sequence[Passage]) -> Iterator[tuple[int, int]]:
    """Pairs of places of passages that hold one text or nearly: those that have to stay together."""
    prints = list(map(_print, passages))
    index = _Index(prints, _common(prints))
    for place, each in enumerate(prints):
        for other in index.texts_like(each):
            if other < place:
                yield other, place


class _Index:
    """Where patients, documents, texts and runs of words occur first, or everywhere; common runs are left out."""

    def __init__(self, prints: Sequence[_Print], common: frozenset[bytes]) -> None:
        self._prints = prints
        self._patients: dict[str, int] = {}
        self._documents: dict[str, int] = {}
        self._texts: dict[bytes, int] = {}
        self._shingles: dict[bytes, list[int]] = {}
        for place, each in enumerate(prints):
            self._documents.setdefault(each.document, place)
            if each.patient is not None:
                self._patients.setdefault(each.patient, place)
            if each.text is not None:
                self._texts.setdefault(each.text, place)
            for shingle in each.shingles - common:
                self._shingles.setdefault(shingle, []).append(place)

    def match(self, one: _Print) -> tuple[Shared, int] | None:
        """The first reason why ``one`` must not stand apart from a passage of this index, and which one that is."""
        if one.patient in self._patients:
            return Shared.PATIENT, self._patients[one.patient]
        if one.document in self._documents:
            return Shared.DOCUMENT, self._documents[one.document]
        if one.text in self._texts:
            return Shared.TEXT, self._texts[one.text]
        nearly = next(self._nearly(one), None)
        return None if nearly is None else (Shared.NEARLY_TEXT, nearly)

    def texts_like(self, one: _Print) -> Iterator[int]:
        """Places of the first passage with this text, and of all with nearly this text."""
        if one.text in self._texts:
            yield self._texts[one.text]
        yield from self._nearly(one)

    def _nearly(self, one: _Print) -> Iterator[int]:
        shared: Counter[int] = Counter()
        for shingle in one.shingles:
            shared.update(self._shingles.get(shingle, ()))
        for place, count in sorted(shared.items()):
            if count >= NEARLY * min(len(one.shingles), len(self._prints[place].shingles)):
                yield place


def _common(prints: Iterable[_Print]) -> frozenset[bytes]:
    """Runs of words that say nothing of where a passage is from."""
    passages = Counter(chain.from_iterable(each.shingles for each in prints))
    return frozenset(shingle for shingle, count in passages.items() if count > MOST_COMMON)


def _print(passage: Passage) -> _Print:
    words = [word.casefold() for word in _WORD.findall(passage.text)]
    if len(words) < FEWEST_WORDS:
        return _Print(patient=passage.patient, document=passage.document, text=None, shingles=frozenset())
    runs = zip(*(words[start:] for start in range(SHINGLE_WORDS)), strict=False)
    return _Print(
        patient=passage.patient,
        document=passage.document,
        text=_digest(words),
        shingles=frozenset(map(_digest, runs)),
    )


def _digest(words: Iterable[str]) -> bytes:
    return blake2b(" ".join(words).encode(errors="surrogatepass"), digest_size=16).digest()

"""What sets of annotated passages hold, in numbers: labels, lengths, what they have in common. No text leaves it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from site_agent.trainer.extraction.leakage import Shared, find_leaks
from site_agent.trainer.extraction.passages import Passage
from site_agent.trainer.extraction.sentences import split_sentences

# A count of fewer may point at a person where it is seen beside others (the rule of many statistical offices).
SMALLEST_CELL = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SetStatistics:
    """One set in numbers.

    Attributes:
        patients: How many are named; passages without one do not count.
        lengths: Words of each passage, in order of length.
    """

    name: str
    passages: int
    documents: int
    patients: int
    sentences: int
    entities: Mapping[str, int]
    relations: Mapping[str, int]
    lengths: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """What the set ``name`` has in common with the set ``other``.

    Attributes:
        entities_seen: Share of its entities whose words, with the same type, the other set has too; None without any.
        leaks: How many of its passages share a patient, a document or a text with the other set.
    """

    name: str
    other: str
    entities_seen: float | None
    leaks: Mapping[Shared, int]


def describe(name: str, passages: Sequence[Passage]) -> SetStatistics:
    """The numbers of one set."""
    return SetStatistics(
        name=name,
        passages=len(passages),
        documents=len({passage.document for passage in passages}),
        patients=len({passage.patient for passage in passages} - {None}),
        sentences=sum(len(split_sentences(passage.text)) for passage in passages),
        entities=Counter(entity.type for passage in passages for entity in passage.entities),
        relations=Counter(relation.type for passage in passages for relation in passage.relations),
        lengths=tuple(sorted(len(passage.text.split()) for passage in passages)),
    )


def overlaps(sets: Mapping[str, Sequence[Passage]]) -> tuple[Overlap, ...]:
    """Every set against every other one."""
    words = {name: _entity_words(passages) for name, passages in sets.items()}
    return tuple(
        Overlap(
            name=name,
            other=other,
            entities_seen=_seen(words[name], words[other]),
            leaks=Counter(leak.shared for leak in find_leaks(sets[other], sets[name], _beside(sets, name, other))),
        )
        for name in sets
        for other in sets
        if name != other
    )


def _beside(sets: Mapping[str, Sequence[Passage]], *names: str) -> Iterator[Passage]:
    """The passages of the further sets."""
    return (passage for name in sets if name not in names for passage in sets[name])


def small_cells(described: Sequence[SetStatistics]) -> int:
    """How many counts of labels are above none and below `SMALLEST_CELL`."""
    counts = [count for each in described for kinds in (each.entities, each.relations) for count in kinds.values()]
    return sum(0 < count < SMALLEST_CELL for count in counts)


def _entity_words(passages: Sequence[Passage]) -> Counter[tuple[str, str]]:
    return Counter(
        (entity.type, " ".join(passage.text[entity.start : entity.end].casefold().split()))
        for passage in passages
        for entity in passage.entities
    )


def _seen(words: Counter[tuple[str, str]], others: Counter[tuple[str, str]]) -> float | None:
    total = words.total()
    return sum(count for each, count in words.items() if each in others) / total if total else None

"""Entities as one label a word (BIO), and back. Pure: no tokenizer, no model.

The first word of an entity is labelled B and its type, the others I and its type, words outside of any entity O. So a
label says nothing of a boundary within a word, nor of two entities in one place: of those that overlap the longest is
kept, as where answers of a language model are built (`extraction.mentions.flatten`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from site_agent.trainer.extraction.mentions import Mention, Span, flatten

OUTSIDE = 0


def label_count(entity_types: Collection[str]) -> int:
    """How many labels there are: O, and B and I of every type."""
    return 1 + 2 * len(entity_types)


def allowed_labels(entity_types: Sequence[str], annotated: Collection[str]) -> tuple[bool, ...]:
    """For each label, whether it is O or of a type that is annotated.

    Where a type is not annotated, a word outside of every gold entity may still be one of that type. So its labels
    have no part there: neither in the loss nor in what is predicted.
    """
    flags = [True]
    for one in entity_types:
        flags += [one in annotated] * 2
    return tuple(flags)


def labels_of(words: Sequence[Span], mentions: Iterable[Mention], entity_types: Sequence[str]) -> tuple[int, ...]:
    """The label of each word; a word at a boundary belongs to the entity that has most of its characters.

    Args:
        words: In order, without overlap.
        mentions: Of any types; those of others than ``entity_types`` are left out.
        entity_types: In the order of their labels.
    """
    kept = flatten(one for one in mentions if one.type in entity_types)
    labels = []
    before: Mention | None = None
    for word in words:
        here = max((one for one in kept if _shared(one, word)), key=lambda one: _shared(one, word), default=None)
        if here is None:
            labels.append(OUTSIDE)
        else:
            labels.append(1 + 2 * entity_types.index(here.type) + (here is before))
        before = here
    return tuple(labels)


def mentions_of(words: Sequence[Span], labels: Sequence[int], entity_types: Sequence[str]) -> tuple[Mention, ...]:
    """The entities that labels say, from the start of their first word to the end of their last.

    An I that does not go on with an entity of its type begins one (as the CoNLL evaluation reads it).

    Raises:
        ValueError: There are not as many labels as words.
    """
    found: list[Mention] = []
    is_open = False
    for word, label in zip(words, labels, strict=True):
        if label == OUTSIDE:
            is_open = False
            continue
        index, is_inside = divmod(label - 1, 2)
        kind = entity_types[index]
        if is_inside and is_open and found[-1].type == kind:
            found[-1] = Mention(start=found[-1].start, end=word.end, type=kind)
        else:
            found.append(Mention(start=word.start, end=word.end, type=kind))
        is_open = True
    return tuple(found)


def _shared(mention: Mention, word: Span) -> int:
    return max(0, min(mention.end, word.end) - max(mention.start, word.start))

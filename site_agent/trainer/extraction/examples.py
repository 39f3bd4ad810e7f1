"""Passages to sentence-level examples, and what was predicted on sentences back to the passage. No prompts here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from site_agent.trainer.extraction.mentions import Mention, Span
from site_agent.trainer.extraction.passages import Passage
from site_agent.trainer.extraction.sentences import split_sentences


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One sentence, and of relations one entity in it: the unit of training and of prediction.

    Attributes:
        entities: Gold mentions, by offsets into ``text``; empty where gold is not known. With a head, its tails, of
            which the type is the role (`label_schema.role_of`).
        offset: Where ``text`` starts in its passage, in characters.
        head: The entity asked about, by offsets into ``text``; None where entities are asked for.
    """

    text: str = field(repr=False)
    entities: tuple[Mention, ...]
    offset: int
    passage_id: str
    head: Mention | None = None


def training_examples(passage: Passage) -> tuple[Example, ...]:
    """The sentences of a passage with their gold entities; no entity is cut."""
    protected = [Span(start=entity.start, end=entity.end) for entity in passage.entities]
    return tuple(_example(passage, span) for span in split_sentences(passage.text, protected))


def unlabelled_examples(passage_id: str, text: str) -> tuple[Example, ...]:
    """The sentences of a text of which no gold is known, or of which none may be used: what is predicted on."""
    return tuple(
        Example(text=text[span.start : span.end], entities=(), offset=span.start, passage_id=passage_id)
        for span in split_sentences(text)
    )


def merge_predictions(examples: Iterable[Example], predictions: Iterable[Sequence[Mention]]) -> tuple[Mention, ...]:
    """What was predicted on the sentences of one passage, by offsets into the passage, each once.

    Raises:
        ValueError: There are not as many predictions as examples.
    """
    moved = {
        mention.moved(example.offset)
        for example, mentions in zip(examples, predictions, strict=True)
        for mention in mentions
    }
    return tuple(sorted(moved))


def _example(passage: Passage, sentence: Span) -> Example:
    """One sentence of a passage. White space at an entity's edges may lie outside it, and is left out."""
    return Example(
        text=passage.text[sentence.start : sentence.end],
        entities=mentions_in(sentence, (entity.mention for entity in passage.entities)),
        offset=sentence.start,
        passage_id=passage.id,
    )


def mentions_in(sentence: Span, mentions: Iterable[Mention]) -> tuple[Mention, ...]:
    """Those of the mentions that stand in the sentence, by offsets into it, sorted, cut at its edges."""
    inside = (
        Mention(
            start=max(mention.start, sentence.start) - sentence.start,
            end=min(mention.end, sentence.end) - sentence.start,
            type=mention.type,
        )
        for mention in mentions
        if mention.start < sentence.end and sentence.start < mention.end
    )
    return tuple(sorted(inside))

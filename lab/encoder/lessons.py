"""Annotated passages as what an encoder learns from: windows with a label for every word. No model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from common.errors import InputInvalidError, Reason
from lab.encoder.labels import allowed_labels, labels_of
from lab.encoder.words import Window, WordPieces
from site_agent.trainer.extraction.examples import Example, training_examples
from site_agent.trainer.extraction.passages import Passage
from site_agent.trainer.extraction.scoring import scored_types


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """A window and the gold label of each of its words.

    Attributes:
        allowed: For each label, whether it has a part in the loss (`labels.allowed_labels`).
    """

    window: Window
    labels: tuple[int, ...]
    allowed: tuple[bool, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """What goes through the encoder."""
        return self.window.ids


def lessons_of(
    sets: Iterable[Sequence[Passage]], entity_types: Sequence[str], pieces: WordPieces, room: int
) -> list[tuple[Lesson, ...]]:
    """The lessons of every sentence that has a word, file after file; more than one, where it has over ``room`` ids.

    Raises:
        InputInvalidError: NOTES_INVALID, when no file annotates any of the types.
    """
    sentences = []
    for passages in sets:
        annotated = scored_types(passages, entity_types)
        if not annotated:  # such a file says nothing of any type
            continue
        allowed = allowed_labels(entity_types, annotated)
        for passage in passages:
            for example in training_examples(passage):
                if lessons := tuple(_lessons(example, entity_types, allowed, pieces, room)):
                    sentences.append(lessons)
    if not sentences:
        expected = f"notes: expected entities of {', '.join(entity_types)}, got none"
        raise InputInvalidError(Reason.NOTES_INVALID, expected)
    return sentences


def _lessons(
    example: Example, entity_types: Sequence[str], allowed: tuple[bool, ...], pieces: WordPieces, room: int
) -> Iterable[Lesson]:
    words = pieces.words(example.text)
    labels = iter(labels_of([word.span for word in words], example.entities, entity_types))
    for window in pieces.windows(words, room):
        yield Lesson(window=window, labels=tuple(next(labels) for _ in window.words), allowed=allowed)

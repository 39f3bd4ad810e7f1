"""Typed stretches of a text by character offsets, and what to do where they overlap. Holds no text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Span:
    """Characters ``start`` to ``end`` (exclusive) of a text, counted in Unicode code points from 0."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Mention:
    """An entity as it is learned, predicted and scored: ``start`` to ``end`` (exclusive) and a type; sorts by place."""

    start: int
    end: int
    type: str

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands."""
        return self.start, self.end

    @property
    def kind(self) -> str:
        """What it is, wherever it stands."""
        return self.type

    def overlaps(self, other: Mention) -> bool:
        """Whether the two share at least one character."""
        return self.start < other.end and other.start < self.end

    def moved(self, by: int) -> Mention:
        """The same mention in a text where everything stands ``by`` characters later."""
        return Mention(start=self.start + by, end=self.end + by, type=self.type)


def flatten(mentions: Iterable[Mention]) -> tuple[Mention, ...]:
    """The longest of mentions that overlap, sorted by place; of equally long ones the first, then by the type's name.

    Neither prompt form says two things about one character, so this is what an answer is built from.
    """
    kept: list[Mention] = []
    for candidate in sorted(mentions, key=lambda one: (one.start - one.end, one.start, one.type)):
        if not any(candidate.overlaps(one) for one in kept):
            kept.append(candidate)
    return tuple(sorted(kept))

"""Annotated passages as typed values. It does not read files: `passage_files` does.

A passage holds text of a note. Its ``repr`` leaves the text out, so that no traceback or log line shows it by accident.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from site_agent.trainer.extraction.mentions import Mention


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """Characters ``start`` to ``end`` (exclusive) of its passage's text are an entity of this type."""

    id: str
    type: str
    start: int
    end: int

    @property
    def mention(self) -> Mention:
        """The entity without its id."""
        return Mention(start=self.start, end=self.end, type=self.type)


@dataclass(frozen=True, slots=True, kw_only=True)
class Relation:
    """The entity with id ``head`` relates to the one with id ``tail``."""

    type: str
    head: str
    tail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """One annotated text.

    Attributes:
        document: Groups the passages of one document: confidence intervals resample documents.
        patient: Whose note it is, as a key of the site's own; None where the record does not say.
    """

    id: str
    text: str = field(repr=False)
    entities: tuple[Entity, ...]
    relations: tuple[Relation, ...]
    document: str
    patient: str | None = None


def annotated_types(passages: Iterable[Passage]) -> frozenset[str]:
    """Entity types that occur in these passages.

    A type that never occurs in a set was not annotated there, which does not mean that its texts hold none.
    """
    return frozenset(entity.type for passage in passages for entity in passage.entities)

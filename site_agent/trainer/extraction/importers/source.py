"""Annotated documents as other formats tell them: types, ids and relations of the source. Knows no schema and no file.

A reader is a pure function from the bytes of one `Unit` to `SourceDocument` and `Problem` values. It raises nothing,
whatever the bytes are: what is malformed becomes a `Problem`, and the documents beside it are read all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

# As for a file of notes: a whole record of a patient fits.
MAX_TEXT_CHARACTERS = 4 * 2**20
MAX_ENTITIES = 100_000
MAX_RELATIONS = 10_000
_BYTE_ORDER_MARK = "\ufeff"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What is read at once: one file, or a text and the file of its annotations.

    Attributes:
        name: The file's name, for messages.
        stem: The same without its suffix: the document's id in formats that give none.
        annotations: The second file, in formats that have one.
    """

    name: str
    stem: str
    content: bytes = field(repr=False)
    annotations: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceEntity:
    """Characters ``start`` to ``end`` (exclusive) of the document's text.

    Attributes:
        id: Without white space, and once in a document.
        parts: How many stretches the source names; more than one are covered by the span from first to last.
        concepts: Ids in a terminology, which relations between concepts name.
        attributes: Names and values; a flag's value is empty.
    """

    id: str
    type: str
    start: int
    end: int
    parts: int = 1
    concepts: frozenset[str] = frozenset()
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceRelation:
    """``head`` and ``tail`` are ids of entities, or of concepts in `SourceDocument.concept_relations`."""

    type: str
    head: str
    tail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceDocument:
    """One annotated document, or one of a source's own passages.

    Attributes:
        concept_relations: Said of the whole document, not of places in it.
        left_out: What the reader passed over by rule, in words, with counts.
    """

    id: str
    text: str = field(repr=False)
    entities: tuple[SourceEntity, ...]
    relations: tuple[SourceRelation, ...] = ()
    concept_relations: tuple[SourceRelation, ...] = ()
    patient: str | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What is wrong, and where: line numbers, field names and offsets, never a value."""

    where: str
    what: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeftOut:
    """A document that a rule passes over: what it is, in words to be counted."""

    what: str


Outcome: TypeAlias = SourceDocument | Problem | LeftOut
Reader: TypeAlias = Callable[[Unit], Iterator[Outcome]]


class MalformedError(Exception):
    """Ends the reading of one document inside a reader, which turns it into a `Problem`. It shows no value."""

    def __init__(self, where: str, what: str) -> None:
        super().__init__()
        self.problem = Problem(where=where, what=what)


def decoded(content: bytes, where: str) -> str:
    """UTF-8 text without a byte order mark; a decoder's exception holds the text, so none is kept or chained.

    Raises:
        MalformedError: it is not UTF-8.
    """
    try:
        return content.decode().removeprefix(_BYTE_ORDER_MARK)
    except UnicodeDecodeError as error:
        position = error.start + 1
    raise MalformedError(where, f"expected UTF-8, got something else at byte {position}")


def expect_text(text: str, where: str) -> str:
    """The text, unless it is too long.

    Raises:
        MalformedError: it is.
    """
    expect(len(text) <= MAX_TEXT_CHARACTERS, where, f"expected a text of at most {MAX_TEXT_CHARACTERS} characters")
    return text


def expect_room(count: int, where: str) -> None:
    """Refuse one entity more than a document may have.

    Raises:
        MalformedError: there are as many already.
    """
    expect(count < MAX_ENTITIES, where, f"expected at most {MAX_ENTITIES} entities, got more")


def expect(condition: bool, where: str, what: str) -> None:
    """Refuse the document unless ``condition`` holds.

    Raises:
        MalformedError: it does not.
    """
    if not condition:
        raise MalformedError(where, what)

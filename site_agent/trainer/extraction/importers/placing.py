"""Offsets of a source to characters of its text, by the evidence of the words that it quotes. Reads no format.

Tools count differently: Unicode characters (Python), UTF-16 units (JavaScript, Java), UTF-8 bytes (C), or characters
with a line end of two counted as one (text mode). Where a source quotes the words of its entities, the first way of
counting is taken under which all of them stand where it says; without quotes, offsets are Unicode characters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from site_agent.trainer.extraction.importers.source import MalformedError, SourceEntity, expect

_ROOM = 10**9
_AS_SPACE = str.maketrans("\n\r\t\f\v", "     ")

Stretches: TypeAlias = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """An entity by offsets of its source, not yet checked.

    Attributes:
        entity: All of it but its place.
        stretches: Starts and ends (exclusive), as the source counts.
        words: What the source says stands there; None if it does not say.
        where: Its place in the file, for messages.
    """

    entity: SourceEntity
    stretches: Stretches
    words: str | None = field(repr=False)
    where: str


def place(text: str, found: Sequence[Placed], in_lines: bool = False) -> tuple[SourceEntity, ...]:
    """The entities with their offsets in characters of ``text``; stretches are covered by one span.

    Args:
        text: The document's.
        found: The entities as the source counts.
        in_lines: Whether the format quotes words within a line, with a space where the text has a line end.

    Raises:
        MalformedError: offsets outside the text, or other words there than the source quotes.
    """
    for one in found:
        _check_order(one)
    for stands in (_stands_in_lines if in_lines else _stands_exactly, _stands):
        for ways in _readings(text, found):
            if all(stands(text, one, stretches) for one, stretches in zip(found, ways, strict=True)):
                return tuple(_covering(one, stretches) for one, stretches in zip(found, ways, strict=True))
    raise _misplaced(text, found)


def _readings(text: str, found: Sequence[Placed]) -> Iterator[list[Stretches]]:
    """The stretches of all entities in characters, by every way of counting; by the first alone without all quotes."""
    yield [one.stretches for one in found]
    is_quoted = all(one.words is not None for one in found)
    for widths in _other_units(text) if is_quoted else ():
        index = _index(widths)
        yield [tuple((index.get(start, -1), index.get(end, -1)) for start, end in one.stretches) for one in found]


def _check_order(one: Placed) -> None:
    expect(bool(one.stretches), one.where, "expected offsets, got none")
    for start, end in one.stretches:
        expect(0 <= start < end < _ROOM, one.where, f"expected 0 <= start < end, got {_short(start)} and {_short(end)}")


def _covering(one: Placed, stretches: Stretches) -> SourceEntity:
    start, end = min(start for start, _ in stretches), max(end for _, end in stretches)
    return replace(one.entity, start=start, end=end, parts=len(stretches))


def _stands_exactly(text: str, one: Placed, stretches: Stretches) -> bool:
    """Whether the words stand there to the letter."""
    there = _there(text, stretches)
    return there is not None and one.words in (None, there)


def _stands_in_lines(text: str, one: Placed, stretches: Stretches) -> bool:
    """Whether the words stand there to the letter, with any white space of a line for any of the text."""
    there = _there(text, stretches)
    return there is not None and (one.words is None or one.words.translate(_AS_SPACE) == there.translate(_AS_SPACE))


def _stands(text: str, one: Placed, stretches: Stretches) -> bool:
    """Whether the words stand there, whatever the white space: many tools make one space of several."""
    there = _there(text, stretches)
    return there is not None and (one.words is None or one.words.split() == there.split())


def _there(text: str, stretches: Stretches) -> str | None:
    """What the text holds there, a space between two stretches; None of a place outside it."""
    if not all(0 <= start < end <= len(text) for start, end in stretches):
        return None
    return " ".join(text[start:end] for start, end in stretches)


def _other_units(text: str) -> Iterator[list[int]]:
    """How wide each character is, in every way of counting that differs on this text."""
    counts: tuple[Callable[[str], int], ...] = (_utf16_units, _utf8_bytes)
    if not text.isascii():
        yield from ([width(character) for character in text] for width in counts)
    if "\r\n" in text:
        yield [int(text[place : place + 2] != "\r\n") for place in range(len(text))]


def _utf16_units(character: str) -> int:
    return 1 + (character > "\uffff")


def _utf8_bytes(character: str) -> int:
    return 1 + (character > "\x7f") + (character > "\u07ff") + (character > "\uffff")


def _index(widths: Sequence[int]) -> dict[int, int]:
    """The character at each offset; of two at one offset the first, as a line end of two has both."""
    index: dict[int, int] = {}
    offset = 0
    for place, width in enumerate(widths):
        index.setdefault(offset, place)
        offset += width
    index.setdefault(offset, len(widths))
    return index


def _misplaced(text: str, found: Sequence[Placed]) -> MalformedError:
    wrong = next(one for one in found if not _stands(text, one, one.stretches))
    start, end = wrong.stretches[0][0], wrong.stretches[-1][1]
    if end > len(text):
        return MalformedError(wrong.where, f"expected offsets up to {len(text)}, got {start} and {end}")
    return MalformedError(
        wrong.where,
        f"expected what the text holds from {start} to {end} (Unicode characters, end exclusive), "
        f"got another string of {len(wrong.words or '')} characters",
    )


def _short(number: int) -> str:
    return str(number) if abs(number) < _ROOM else "a number beyond a billion"

"""spaCy's DocBin (``.spacy``), read as what it is: msgpack of arrays, compressed by zlib. No spaCy, and no code.

Strings are numbered by their hash, but for some hundred names that spaCy numbers from 0 on. Entities are ``Doc.ents``;
span groups are left out and counted. Documents have no ids there and are numbered.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from site_agent.trainer.extraction.importers.murmur import murmur64
from site_agent.trainer.extraction.importers.source import (
    MAX_TEXT_CHARACTERS,
    MalformedError,
    Outcome,
    SourceDocument,
    SourceEntity,
    Unit,
    expect,
    expect_room,
    expect_text,
)
from site_agent.trainer.extraction.importers.spacy_names import NUMBERED

MAX_UNPACKED_BYTES = 512 * 2**20
MAX_TOKENS = 10_000_000
_SEED = 1
# Attributes by the numbers that spaCy gives them, and the values of ENT_IOB.
_ORTH, _ENT_IOB, _ENT_TYPE = 65, 77, 78
_INSIDE, _BEGIN = 1, 3

Array = npt.NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class _Bin:
    """The file's arrays.

    Attributes:
        tokens: (tokens, attributes) numbers of strings and values.
        spaces: (tokens,) whether a space follows.
        lengths: Tokens of each document.
    """

    tokens: Array = field(repr=False)
    spaces: npt.NDArray[np.bool_] = field(repr=False)
    lengths: Sequence[int]
    columns: Mapping[int, int]
    strings: Mapping[int, str] = field(repr=False)
    flags: Sequence[object] = field(repr=False)
    groups: Sequence[object] = field(repr=False)


def read_docbin(unit: Unit) -> Iterator[Outcome]:
    """The documents of a DocBin."""
    try:
        found = _unpacked(unit)
    except MalformedError as error:
        yield error.problem
        return
    start = 0
    for place, length in enumerate(found.lengths):
        where = f"{unit.name}, document {place + 1}"
        try:
            yield _document(found, slice(start, start + length), place, f"{unit.stem}-{place + 1}", where)
        except MalformedError as error:
            yield error.problem
        start += length


def _unpacked(unit: Unit) -> _Bin:
    fields = _message(_inflated(unit), unit.name)
    attributes, lengths = fields.get("attrs"), _array(fields, "lengths", np.dtype("<i4"), unit.name)
    is_list = isinstance(attributes, list) and all(type(each) is int for each in attributes)
    expect(is_list, unit.name, "attrs: expected a list of integers, got another value")
    columns = {int(each): place for place, each in enumerate(attributes if isinstance(attributes, list) else ())}
    expect({_ORTH, _ENT_IOB, _ENT_TYPE} <= columns.keys(), unit.name, "attrs: expected ORTH, ENT_IOB and ENT_TYPE")
    tokens = _array(fields, "tokens", np.dtype("<u8"), unit.name)
    spaces = _array(fields, "spaces", np.dtype("?"), unit.name)
    is_sound = bool((lengths >= 0).all()) and len(lengths) <= MAX_TOKENS and len(spaces) <= MAX_TOKENS
    total = int(lengths.sum(dtype=np.int64))
    fits = is_sound and total == len(spaces) and len(tokens) == total * len(attributes if is_list else ())  # type: ignore[arg-type]
    expect(fits, unit.name, "tokens, spaces, lengths: expected arrays that fit each other, got others")
    return _Bin(
        tokens=tokens.reshape(total, -1) if total else tokens.reshape(0, len(columns)),
        spaces=spaces,
        lengths=[int(each) for each in lengths],
        columns=columns,
        strings=_strings(fields.get("strings"), unit.name),
        flags=_list(fields.get("flags")),
        groups=_list(fields.get("span_groups")),
    )


def _inflated(unit: Unit) -> bytes:
    """The content, which a small file may say is huge: no more than the bound is ever unpacked."""
    try:
        inflating = zlib.decompressobj()
        content = inflating.decompress(unit.content, MAX_UNPACKED_BYTES)
    except zlib.error:
        content = b""
    expect(bool(content), unit.name, "expected a DocBin (zlib), got another file")
    expect(inflating.eof, unit.name, f"expected at most {MAX_UNPACKED_BYTES} bytes unpacked, got more or a cut file")
    return content


def _message(content: bytes, where: str) -> Mapping[object, object]:
    try:
        import msgpack  # of an extra that only this format needs
    except ModuleNotFoundError:
        raise MalformedError(where, "expected the extra `data`, which reads DocBin, to be installed") from None
    try:
        message = msgpack.unpackb(content, ext_hook=lambda code, data: None)
    except (ValueError, RecursionError, msgpack.UnpackException):
        message = None
    if not isinstance(message, dict):
        raise MalformedError(where, "expected a DocBin (msgpack), got another file")
    return message


def _array(fields: Mapping[object, object], name: str, kind: np.dtype[Any], where: str) -> npt.NDArray[Any]:
    value = fields.get(name)
    if not isinstance(value, bytes) or len(value) % kind.itemsize:
        raise MalformedError(where, f"{name}: expected an array, got another value")
    return np.frombuffer(value, kind)


def _strings(values: object, where: str) -> dict[int, str]:
    """The file's strings by their numbers."""
    is_list = isinstance(values, list) and all(isinstance(each, str) for each in values)
    expect(is_list, where, "strings: expected a list of strings, got another value")
    numbered = dict(NUMBERED)
    for each in values if isinstance(values, list) else ():
        numbered[murmur64(each.encode(errors="surrogatepass"), _SEED)] = each
    return numbered


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _document(found: _Bin, tokens: slice, place: int, document_id: str, where: str) -> SourceDocument:
    words = [_string(found, number, where) for number in found.tokens[tokens, found.columns[_ORTH]]]
    starts, parts, length = [], [], 0
    for word, has_space in zip(words, found.spaces[tokens], strict=True):
        starts.append(length)
        parts.append(word + " " * bool(has_space))
        length += len(parts[-1])
        expect(length <= MAX_TEXT_CHARACTERS, where, f"expected a text of at most {MAX_TEXT_CHARACTERS} characters")
    left_out: Counter[str] = Counter()
    flags = found.flags[place] if place < len(found.flags) else None
    left_out["texts without their own spaces"] += isinstance(flags, dict) and bool(flags.get("has_unknown_spaces"))
    left_out["documents with span groups"] += place < len(found.groups) and _has_groups(found.groups[place])
    entities: list[SourceEntity] = []
    for first, last, number in _entities(found.tokens[tokens], found.columns):
        expect_room(len(entities), where)
        kind, end = _string(found, number, where), starts[last] + len(words[last])
        entities.append(SourceEntity(id=f"T{len(entities) + 1}", type=kind, start=starts[first], end=end))
    text = expect_text("".join(parts), where)
    return SourceDocument(id=document_id, text=text, entities=tuple(entities), left_out=left_out)


def _string(found: _Bin, number: np.uint64, where: str) -> str:
    string = found.strings.get(int(number))
    if not string:
        raise MalformedError(where, "expected words and types that the file's strings have, got another number")
    return string


def _entities(tokens: Array, columns: Mapping[int, int]) -> Iterator[tuple[int, int, np.uint64]]:
    """First token, last token and type's number of each entity."""
    first = None
    marks, types = tokens[:, columns[_ENT_IOB]], tokens[:, columns[_ENT_TYPE]]
    for place, mark in enumerate(marks):
        goes_on = mark == _INSIDE and first is not None and types[place] == types[first]
        if first is not None and not goes_on:
            yield first, place - 1, types[first]
            first = None
        if first is None and mark in (_BEGIN, _INSIDE):
            first = place
    if first is not None:
        yield first, len(marks) - 1, types[first]


def _has_groups(packed: object) -> bool:
    """Whether a document has span groups: an empty list of them is one byte of msgpack."""
    return isinstance(packed, bytes) and len(packed) > 1

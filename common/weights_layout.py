"""The header of a safetensors file, read as a stranger's: strict, and bounded in memory and time. Reads no tensor.

The format: 8 bytes little-endian header length, that many bytes of JSON, then the tensors' bytes without holes
(https://github.com/huggingface/safetensors#format). Accepted here: LoRA factors in the dtypes that travel.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from math import prod
from typing import Any, Never

from common.adapter import MAX_DIMENSION, MAX_NAME_LENGTH, MAX_TENSORS, WireDtype
from common.errors import Reason, UpdateRefusedError

MAX_HEADER_BYTES = 8 * 2**20
METADATA_KEY = "__metadata__"
LENGTH_BYTES = 8
MAX_DIMENSIONS = 8
FILE_DTYPES = {dtype.value.upper(): dtype for dtype in WireDtype}

# How often a character may stand in a header: a tensor's entry holds 1 brace, 2 brackets and, with its separator, at
# most 4 + MAX_DIMENSIONS commas. Counted before the JSON is parsed, so that a header of 8 MiB cannot become a
# hundred times that in Python objects. The slack is for the metadata.
_SLACK = 1_000
_MOST = {
    b"{": MAX_TENSORS + _SLACK,
    b"[": 2 * MAX_TENSORS + _SLACK,
    b",": (4 + MAX_DIMENSIONS) * MAX_TENSORS + _SLACK,
}
_MAX_DIGITS = 19  # of 2^63


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSlot:
    """Where one tensor lies: bytes ``start`` to ``end`` of the file; ``dtype`` as the file writes it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightsLayout:
    """All tensors in the order in which they lie, and the bytes of the whole file."""

    tensors: tuple[TensorSlot, ...]
    size_bytes: int


def read_layout(descriptor: int) -> WeightsLayout:
    """Read and check the header of the open file ``descriptor``; at most MAX_HEADER_BYTES are read.

    Raises:
        UpdateRefusedError: UPDATE_NOT_SAFETENSORS, UPDATE_HEADER_TOO_LARGE, UPDATE_TRUNCATED,
            UPDATE_SHAPE_DIFFERS or UPDATE_DTYPE_DIFFERS.
    """
    size_bytes = os.fstat(descriptor).st_size
    prefix = os.pread(descriptor, LENGTH_BYTES + 1, 0)
    if len(prefix) < LENGTH_BYTES:
        _refuse(Reason.UPDATE_TRUNCATED, f"file: expected at least {LENGTH_BYTES} bytes, got {len(prefix)}")
    if prefix[LENGTH_BYTES:] not in (b"{", b""):
        _refuse(Reason.UPDATE_NOT_SAFETENSORS, f"header: expected '{{' at byte {LENGTH_BYTES}")
    header_bytes = int.from_bytes(prefix[:LENGTH_BYTES], "little")
    if header_bytes > MAX_HEADER_BYTES:
        expected = f"header: expected at most {MAX_HEADER_BYTES} bytes"
        _refuse(Reason.UPDATE_HEADER_TOO_LARGE, f"{expected}, got {header_bytes}")
    data_start = LENGTH_BYTES + header_bytes
    if data_start > size_bytes:
        _refuse(Reason.UPDATE_TRUNCATED, f"header: expected {data_start} bytes, the file has {size_bytes}")
    entries = _parse_header(os.pread(descriptor, header_bytes, LENGTH_BYTES))
    slots = sorted((_slot(name, entry, data_start) for name, entry in entries.items()), key=lambda slot: slot.start)
    _check_cover(slots, data_start, size_bytes)
    return WeightsLayout(tensors=tuple(slots), size_bytes=size_bytes)


def _refuse(reason: Reason, message: str) -> Never:
    raise UpdateRefusedError(reason, message)


def _parse_header(header: bytes) -> dict[str, Any]:
    for character, most in _MOST.items():
        if (count := header.count(character)) > most:
            expected = f"header: expected at most {most} of {character.decode()!r}"
            _refuse(Reason.UPDATE_HEADER_TOO_LARGE, f"{expected}, got {count}")
    try:
        entries: dict[str, Any] = json.loads(
            header.decode("utf-8"),
            object_pairs_hook=_without_duplicates,
            parse_int=_bounded_int,
            parse_float=_no_such_number,
            parse_constant=_no_such_number,
        )
    except (ValueError, RecursionError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
        # The parser's message would quote the file, and its cause would too.
        raise UpdateRefusedError(
            Reason.UPDATE_NOT_SAFETENSORS, "header: expected JSON without duplicate keys, fractions or nesting"
        ) from None
    entries.pop(METADATA_KEY, None)  # it begins with a brace, so it is an object
    if not 1 <= len(entries) <= MAX_TENSORS:
        _refuse(Reason.UPDATE_TENSORS_DIFFER, f"tensors: expected 1 to {MAX_TENSORS}, got {len(entries)}")
    return entries


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("duplicate key")
    return found


def _bounded_int(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:
        raise ValueError("integer too long")
    return int(digits)


def _no_such_number(_text: str) -> Never:
    raise ValueError("not an integer")


def _slot(name: str, entry: object, data_start: int) -> TensorSlot:
    if not 1 <= len(name) <= MAX_NAME_LENGTH or not name.isascii() or not name.isprintable():
        _refuse(
            Reason.UPDATE_NOT_SAFETENSORS,
            f"tensor name: expected 1 to {MAX_NAME_LENGTH} printable ASCII characters, got {len(name)}",
        )
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        _refuse(Reason.UPDATE_NOT_SAFETENSORS, f"tensor {name!r}: expected dtype, shape and data_offsets")
    dtype = FILE_DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        _refuse(Reason.UPDATE_DTYPE_DIFFERS, f"tensor {name!r}: expected one of {', '.join(FILE_DTYPES)}")
    shape, offsets = _integers(name, entry["shape"]), _integers(name, entry["data_offsets"])
    if not 1 <= len(shape) <= MAX_DIMENSIONS or not all(1 <= size <= MAX_DIMENSION for size in shape):
        expected = f"expected 1 to {MAX_DIMENSIONS} dimensions of 1 to {MAX_DIMENSION}"
        _refuse(Reason.UPDATE_SHAPE_DIFFERS, f"tensor {name!r}: {expected}, got {list(shape)[:MAX_DIMENSIONS]}")
    expected_bytes = prod(shape) * dtype.item_bytes
    if len(offsets) != 2 or offsets[1] - offsets[0] != expected_bytes:
        _refuse(
            Reason.UPDATE_NOT_SAFETENSORS,
            f"tensor {name!r}: expected two offsets {expected_bytes} bytes apart, got {list(offsets)[:3]}",
        )
    start, end = (data_start + offset for offset in offsets)
    return TensorSlot(name=name, dtype=entry["dtype"], shape=shape, start=start, end=end)


def _integers(name: str, value: object) -> tuple[int, ...]:
    # type(...), because a JSON true is an int to isinstance.
    if not isinstance(value, list) or not all(type(item) is int for item in value):
        _refuse(Reason.UPDATE_NOT_SAFETENSORS, f"tensor {name!r}: expected lists of integers")
    return tuple(value)


def _check_cover(slots: list[TensorSlot], data_start: int, size_bytes: int) -> None:
    end = data_start
    for slot in slots:
        if slot.start != end:
            expected = f"tensor {slot.name!r}: expected to begin at byte {end}"
            _refuse(Reason.UPDATE_NOT_SAFETENSORS, f"{expected}, got {slot.start}")
        end = slot.end
    if end > size_bytes:
        _refuse(Reason.UPDATE_TRUNCATED, f"tensors: expected a file of {end} bytes, got {size_bytes}")
    if end < size_bytes:
        _refuse(Reason.UPDATE_NOT_SAFETENSORS, f"tensors: expected a file of {end} bytes, got {size_bytes}")

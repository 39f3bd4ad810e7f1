"""Adapter weights as safetensors: read by position from untrusted files, written the same way every time.

Never maps a file into memory, never unpickles, never needs torch; one tensor at a time is held.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from common.adapter import TensorSpec, WireDtype
from common.bfloat16 import all_finite_bf16, decode_bf16, encode_bf16
from common.errors import Reason, UpdateRefusedError
from common.files import replacing
from common.ids import Digest
from common.weights_layout import (
    FILE_DTYPES,
    LENGTH_BYTES,
    MAX_HEADER_BYTES,
    METADATA_KEY,
    TensorSlot,
    WeightsLayout,
    read_layout,
)

__all__ = [
    "MAX_HEADER_BYTES",
    "TensorSlot",
    "WeightsLayout",
    "WeightsReader",
    "WeightsWriter",
    "check_update",
    "decode_bf16",
    "encode_bf16",
    "file_digest",
    "write_weights",
]

_NAMES_SHOWN = 3
_READ_BYTES = 2**20
# transformers and peft refuse a file that does not say for which framework it was written.
_METADATA = {"format": "pt"}


class WeightsReader:
    """An open safetensors file, its header checked; a context manager. Threads may read from one reader at once.

    Raises:
        UpdateRefusedError: on opening, as :func:`common.weights_layout.read_layout`.
    """

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.layout = read_layout(self._descriptor)
        except BaseException:
            self.close()
            raise
        self._slots = {slot.name: slot for slot in self.layout.tensors}

    def __contains__(self, name: str) -> bool:
        """Whether the file holds the tensor ``name``."""
        return name in self._slots

    def tensor(self, name: str) -> NDArray[np.float32]:
        """The tensor ``name`` in float32, C order, in memory of its own.

        Raises:
            KeyError: there is no such tensor.
            UpdateRefusedError: UPDATE_TRUNCATED, when the file shrank after it was opened.
        """
        stored = self._stored(self._slots[name])
        return decode_bf16(stored) if stored.dtype.kind == "u" else stored.astype(np.float32, copy=False)

    def is_finite(self, name: str) -> bool:
        """Whether the tensor ``name`` holds neither NaN nor infinity; raises as :meth:`tensor`."""
        stored = self._stored(self._slots[name])
        return all_finite_bf16(stored) if stored.dtype.kind == "u" else bool(np.isfinite(stored).all())

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def _stored(self, slot: TensorSlot) -> NDArray[Any]:
        """The tensor as it lies in the file: bfloat16 as ``<u2``, float32 as ``<f4``."""
        is_bf16 = FILE_DTYPES[slot.dtype] is WireDtype.BF16
        stored = np.empty(slot.shape, dtype="<u2" if is_bf16 else "<f4")
        buffer = stored.data.cast("B")
        done = 0
        while done < len(buffer):
            count = os.preadv(self._descriptor, [buffer[done:]], slot.start + done)
            if count == 0:
                raise UpdateRefusedError(
                    Reason.UPDATE_TRUNCATED, f"tensor {slot.name!r}: expected {len(buffer)} bytes, got {done}"
                )
            done += count
        return stored


def check_update(reader: WeightsReader, tensors: Sequence[TensorSpec], dtype: WireDtype) -> None:
    """Refuse a file that does not hold exactly ``tensors`` in ``dtype``, or any number that is not finite.

    Raises:
        UpdateRefusedError: UPDATE_TENSORS_DIFFER, UPDATE_SHAPE_DIFFERS, UPDATE_DTYPE_DIFFERS, UPDATE_NOT_FINITE.
    """
    slots = {slot.name: slot for slot in reader.layout.tensors}
    expected = {spec.name: spec for spec in tensors}
    if slots.keys() != expected.keys():
        missing, extra = sorted(expected.keys() - slots.keys()), sorted(slots.keys() - expected.keys())
        raise UpdateRefusedError(
            Reason.UPDATE_TENSORS_DIFFER,
            f"tensors: expected {len(expected)}, got {len(slots)}; missing: {_few(missing)}; extra: {_few(extra)}",
        )
    for name, spec in expected.items():
        _check_slot(slots[name], spec, dtype)
    for name in expected:
        if not reader.is_finite(name):
            raise _not_finite(name, dtype)


def _check_slot(slot: TensorSlot, spec: TensorSpec, dtype: WireDtype) -> None:
    if slot.shape != spec.shape:
        raise UpdateRefusedError(
            Reason.UPDATE_SHAPE_DIFFERS,
            f"tensor {slot.name!r}: expected shape {list(spec.shape)}, got {list(slot.shape)}",
        )
    if FILE_DTYPES[slot.dtype] is not dtype:
        raise UpdateRefusedError(
            Reason.UPDATE_DTYPE_DIFFERS,
            f"tensor {slot.name!r}: expected dtype {dtype}, got {slot.dtype.lower()}",
        )


def _few(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:_NAMES_SHOWN]) or "none"
    hidden = len(names) - _NAMES_SHOWN
    return f"{shown} and {hidden} more" if hidden > 0 else shown


class WeightsWriter:
    """Writes tensors one by one, in the order of ``tensors``; a context manager.

    The file appears under ``path`` when the block ends well and is whole; otherwise nothing is left. Equal values
    give equal bytes. ``digest`` and ``size_bytes`` are of the finished file.
    """

    def __init__(self, path: Path, tensors: Sequence[TensorSpec], dtype: WireDtype) -> None:
        self._replacing: AbstractContextManager[BinaryIO] = replacing(path)
        self._expected = tuple(tensors)
        self._dtype = dtype
        self._written = 0
        self._hash = hashlib.sha256()
        self._file: BinaryIO
        self.size_bytes = 0

    def __enter__(self) -> Self:
        self._file = self._replacing.__enter__()
        self._append(_header(self._expected, self._dtype))
        return self

    def write(self, name: str, values: NDArray[np.floating]) -> None:
        """Append the next tensor, rounded to the file's dtype (to nearest, ties to even).

        Raises:
            ValueError: it is not the next tensor, or has another shape.
            UpdateRefusedError: UPDATE_NOT_FINITE, also when a value is too large for the dtype.
        """
        spec = self._expected[self._written] if self._written < len(self._expected) else None
        if spec is None or (spec.name, spec.shape) != (name, values.shape):
            raise ValueError(f"expected {spec}, got {name!r} of shape {values.shape}")
        self._append(_encode(name, values, self._dtype))
        self._written += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None or self._written == len(self._expected):
            self._replacing.__exit__(kind, error, traceback)
            return
        incomplete = ValueError(f"expected {len(self._expected)} tensors, got {self._written}")
        self._replacing.__exit__(ValueError, incomplete, None)
        raise incomplete

    @property
    def digest(self) -> Digest:
        """SHA-256 of the file."""
        return Digest("sha256:" + self._hash.hexdigest())

    def _append(self, content: bytes | memoryview) -> None:
        self._file.write(content)
        self._hash.update(content)
        self.size_bytes += len(content)


def _header(tensors: Sequence[TensorSpec], dtype: WireDtype) -> bytes:
    entries: dict[str, object] = {METADATA_KEY: _METADATA}
    offset = 0
    for spec in tensors:
        end = offset + spec.parameters * dtype.item_bytes
        entries[spec.name] = {
            "dtype": dtype.value.upper(),
            "shape": list(spec.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % LENGTH_BYTES)  # tensors begin aligned, as safetensors writes them
    return len(header).to_bytes(LENGTH_BYTES, "little") + header


def _encode(name: str, values: NDArray[np.floating], dtype: WireDtype) -> memoryview:
    if dtype is WireDtype.BF16:
        bits = encode_bf16(values)
        if not all_finite_bf16(bits):
            raise _not_finite(name, dtype)
        return bits.astype("<u2", copy=False).data.cast("B")
    with np.errstate(over="ignore"):
        rounded = values.astype("<f4", order="C")
    if not np.isfinite(rounded).all():
        raise _not_finite(name, dtype)
    return rounded.data.cast("B")


def _not_finite(name: str, dtype: WireDtype) -> UpdateRefusedError:
    return UpdateRefusedError(Reason.UPDATE_NOT_FINITE, f"tensor {name!r}: expected finite numbers of {dtype} only")


def write_weights(path: Path, weights: Mapping[str, NDArray[np.floating]], dtype: WireDtype) -> Digest:
    """Write all of ``weights``, sorted by name, and return the file's digest."""
    specs = [TensorSpec(name=name, shape=weights[name].shape) for name in sorted(weights)]
    with WeightsWriter(path, specs, dtype) as writer:
        for spec in specs:
            writer.write(spec.name, weights[spec.name])
    return writer.digest


def file_digest(path: Path) -> Digest:
    """SHA-256 of the file, read in pieces."""
    running = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_READ_BYTES):
            running.update(piece)
    return Digest("sha256:" + running.hexdigest())

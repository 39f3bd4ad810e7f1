"""Describes a file that the trainer wrote, for the egress check: all that is in it, and its norm. It sends nothing."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np

from common.adapter import TensorSpec
from common.errors import Reason, UpdateRefusedError
from common.weights_io import WeightsReader, file_digest
from common.weights_layout import LENGTH_BYTES, METADATA_KEY
from site_agent.app.ports import DescribedFile
from site_agent.domain.egress import FileLayout


def describe_file(path: Path) -> DescribedFile:
    """Layout, digest and size of a safetensors file, whose tensors cover it without a hole.

    Raises:
        UpdateRefusedError: It is none.
        FileNotFoundError: There is none.
    """
    with WeightsReader(path) as reader:
        slots = reader.layout.tensors
        size_bytes = reader.layout.size_bytes
    header = _header(path)
    parsed = json.loads(header)
    layout = FileLayout(
        tensors=tuple(sorted(TensorSpec(name=slot.name, shape=slot.shape) for slot in slots)),
        dtypes=frozenset(slot.dtype.lower() for slot in slots),
        metadata=_metadata(parsed.get(METADATA_KEY, {})),
        stray_bytes=_stray_bytes(header, parsed),
    )
    return DescribedFile(layout=layout, digest=file_digest(path), size_bytes=size_bytes)


def measure_move(update: Path, start: Path) -> float:
    """Frobenius norm of update minus start over all tensors of the update together, one tensor at a time in memory.

    Raises:
        UpdateRefusedError: One of them is no safetensors file, or a tensor is not in ``start`` in the same shape.
        FileNotFoundError: One of them is not there.
    """
    total = 0.0
    with WeightsReader(update) as after, WeightsReader(start) as before, np.errstate(over="ignore", invalid="ignore"):
        shapes = {slot.name: slot.shape for slot in before.layout.tensors}
        for slot in after.layout.tensors:
            if shapes.get(slot.name) != slot.shape:
                message = f"tensor {slot.name!r}: expected shape {shapes.get(slot.name)}, got {slot.shape}"
                raise UpdateRefusedError(Reason.UPDATE_TENSORS_DIFFER, message)
            # In float32, at a third of float64's cost: the difference of near numbers is exact (Sterbenz, 1974). What
            # overflows is infinitely far, which no bound lets out.
            move = after.tensor(slot.name) - before.tensor(slot.name)
            total += float(np.vdot(move, move))
    return math.sqrt(total)


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(int.from_bytes(file.read(LENGTH_BYTES), "little"))


def _metadata(entries: object) -> frozenset[tuple[str, str]]:
    if not isinstance(entries, dict):
        return frozenset({(METADATA_KEY, type(entries).__name__)})
    return frozenset((str(key), str(value)) for key, value in entries.items())


def _stray_bytes(header: bytes, parsed: object) -> int:
    """Bytes of the header beyond its tightest JSON, less the blanks that align the tensors to LENGTH_BYTES."""
    blanks = len(header) - len(json.dumps(parsed, separators=(",", ":"), ensure_ascii=False).encode())
    return blanks if blanks >= LENGTH_BYTES else 0

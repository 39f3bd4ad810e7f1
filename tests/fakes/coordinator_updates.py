"""Adapter files for tests: honest ones of a specification, and safetensors put together by hand to be wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from common.adapter import B_SUFFIX, AdapterSpec, WireDtype
from common.chunks import chunk_ranges
from common.ids import AssignmentId, Digest
from common.weights_io import write_weights
from coordinator.app.update_intake import ReceivedChunk, UploadClaim
from coordinator.domain.admission import ClaimedUpdate

Weights = dict[str, NDArray[np.float32]]
RawTensor = tuple[str, str, tuple[int, ...], bytes]
_NUMPY_DTYPES: dict[str, np.dtype[np.generic]] = {
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "F64": np.dtype("<f8"),
}


def random_weights(spec: AdapterSpec, seed: int, scale: float = 0.02) -> Weights:
    """Factors of the specification, normally distributed."""
    random = np.random.default_rng(seed)
    return {t.name: (random.standard_normal(t.shape) * scale).astype(np.float32) for t in spec.tensors}


def update_bytes(folder: Path, spec: AdapterSpec, seed: int) -> bytes:
    """The file of :func:`random_weights` in the specification's dtype, as a site would write it."""
    path = folder / f"update-{seed}.safetensors"
    write_weights(path, random_weights(spec, seed), spec.dtype)
    content = path.read_bytes()
    path.unlink()
    return content


def first_bytes(folder: Path, spec: AdapterSpec) -> bytes:
    """The file of a first adapter as an evaluator makes it: A random, B zero."""
    path = folder / "first.safetensors"
    weights = random_weights(spec, seed=1000)
    write_weights(path, {n: w * (0 if n.endswith(B_SUFFIX) else 1) for n, w in weights.items()}, spec.dtype)
    content = path.read_bytes()
    path.unlink()
    return content


def raw_tensors(weights: Mapping[str, NDArray[np.floating]], dtype: str = "BF16") -> list[RawTensor]:
    """Tensors as bytes, in the order of ``weights``, in any dtype that safetensors knows."""
    stored = {name: np.ascontiguousarray(values).astype(_NUMPY_DTYPES[dtype]) for name, values in weights.items()}
    return [(name, dtype, values.shape, values.tobytes()) for name, values in stored.items()]


def safetensors_bytes(tensors: list[RawTensor]) -> bytes:
    """A safetensors file by the book (https://github.com/huggingface/safetensors#format), whatever it holds."""
    entries: dict[str, object] = {}
    offset = 0
    for name, dtype, shape, raw in tensors:
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(raw)]}
        offset += len(raw)
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + b"".join(raw for *_, raw in tensors)


def read_float64(content: bytes) -> dict[str, NDArray[np.float64]]:
    """The tensors of a safetensors file in float64; a reader of the tests' own, so that it can contradict ours."""
    length = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + length])
    entries.pop("__metadata__", None)
    data = content[8 + length :]
    tensors = {}
    for name, entry in entries.items():
        start, end = entry["data_offsets"]
        stored = np.frombuffer(data[start:end], dtype=_NUMPY_DTYPES[entry["dtype"]])
        tensors[name] = stored.astype(np.float64).reshape(entry["shape"])
    return tensors


def digest_bytes(content: bytes) -> Digest:
    """SHA-256 of a file's content, in the form of a digest."""
    return Digest("sha256:" + hashlib.sha256(content).hexdigest())


def trained_claim(
    assignment_id: AssignmentId, content: bytes, base: Digest, num_examples: int = 10, num_label_tokens: int = 100
) -> UploadClaim:
    """The header of an upload of ``content``, trained from ``base``."""
    update = ClaimedUpdate(
        size_bytes=len(content), base_digest=base, num_examples=num_examples, num_label_tokens=num_label_tokens
    )
    return UploadClaim(
        assignment_id=assignment_id, digest=digest_bytes(content), size_bytes=len(content), update=update
    )


async def chunks_of(content: bytes, offset: int = 0, chunk_bytes: int | None = None) -> AsyncIterator[ReceivedChunk]:
    """``content`` from ``offset`` on, cut as the wire cuts it, or into pieces of ``chunk_bytes``."""
    if chunk_bytes is None:
        ranges = list(chunk_ranges(len(content), offset))
    else:
        ranges = [(start, min(chunk_bytes, len(content) - start)) for start in range(offset, len(content), chunk_bytes)]
    for start, length in ranges:
        yield ReceivedChunk(offset=start, content=content[start : start + length])


def wire_name(dtype: WireDtype) -> str:
    """The dtype as a safetensors header writes it."""
    return dtype.value.upper()

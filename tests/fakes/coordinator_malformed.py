"""Every malformed update that the tests send, each with the reason it must be refused for."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from common.adapter import AdapterSpec
from common.errors import Reason
from common.weights_layout import MAX_HEADER_BYTES
from tests.fakes.coordinator_updates import random_weights, raw_tensors, safetensors_bytes

GIBIBYTE = 2**30
Factor = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Malformed:
    """A way to be wrong; ``make`` builds the file for a specification."""

    name: str
    reason: Reason
    make: Callable[[AdapterSpec], bytes]

    def __str__(self) -> str:
        return self.name


def malformed_updates() -> list[Malformed]:
    """One of each kind."""
    return [
        _of("wrong_name", Reason.UPDATE_TENSORS_DIFFER, _wrong_name),
        _of("missing_tensor", Reason.UPDATE_TENSORS_DIFFER, _missing_tensor),
        _of("extra_tensor", Reason.UPDATE_TENSORS_DIFFER, _extra_tensor),
        _shaped("wrong_shape", lambda a: np.concatenate([a, a], axis=1)),
        _shaped("transposed", lambda a: np.ascontiguousarray(a.T)),
        _shaped("broadcastable_row", lambda a: a[:1]),
        _shaped("broadcastable_column", lambda a: a[:, :1]),
        _shaped("broadcastable_vector", lambda a: a[0]),
        _shaped("one_number", lambda a: a[:1, :1]),
        _typed("float32", "F32"),
        _typed("float16", "F16"),
        _typed("float64", "F64"),
        _valued("nan", np.nan),
        _valued("infinity", np.inf),
        _valued("minus_infinity", -np.inf),
        _of("cut_in_the_last_tensor", Reason.UPDATE_TRUNCATED, lambda spec: _honest(spec)[:-3]),
        _of("cut_in_the_header", Reason.UPDATE_TRUNCATED, lambda spec: _honest(spec)[:50]),
        _of("cut_in_the_length", Reason.UPDATE_TRUNCATED, lambda spec: _honest(spec)[:5]),
        _length("header_of_2_gigabytes", 2 * GIBIBYTE),
        _length("header_of_the_largest_length", 2**64 - 1),
        _length("header_one_byte_too_long", MAX_HEADER_BYTES + 1),
        _of("pickle", Reason.UPDATE_NOT_SAFETENSORS, lambda spec: pickle.dumps(random_weights(spec, 0))),
        _of("text", Reason.UPDATE_NOT_SAFETENSORS, lambda _: b"this is no safetensors file, and never was"),
        _of("bytes_after_the_end", Reason.UPDATE_NOT_SAFETENSORS, lambda spec: _honest(spec) + b"\0"),
        _of("overlapping_tensors", Reason.UPDATE_NOT_SAFETENSORS, _overlapping),
        _of("a_name_twice", Reason.UPDATE_NOT_SAFETENSORS, _name_twice),
    ]


def _of(name: str, reason: Reason, make: Callable[[AdapterSpec], bytes]) -> Malformed:
    return Malformed(name=name, reason=reason, make=make)


def _honest(spec: AdapterSpec) -> bytes:
    return safetensors_bytes(raw_tensors(random_weights(spec, 0)))


def _wrong_name(spec: AdapterSpec) -> bytes:
    tensors = raw_tensors(random_weights(spec, 0))
    name, *_ = tensors[0]
    return safetensors_bytes([(name.replace("q_proj", "k_proj"), *tensors[0][1:]), *tensors[1:]])


def _missing_tensor(spec: AdapterSpec) -> bytes:
    return safetensors_bytes(raw_tensors(random_weights(spec, 0))[:-1])


def _extra_tensor(spec: AdapterSpec) -> bytes:
    tensors = raw_tensors(random_weights(spec, 0))
    return safetensors_bytes([*tensors, ("model.embed_tokens.lora_A.weight", *tensors[0][1:])])


def _shaped(name: str, change: Callable[[Factor], Factor]) -> Malformed:
    def make(spec: AdapterSpec) -> bytes:
        weights = random_weights(spec, 0)
        last = spec.names[-2]  # a factor A, in the last module: everything before it is honest
        weights[last] = change(weights[last])
        return safetensors_bytes(raw_tensors(weights))

    return _of(name, Reason.UPDATE_SHAPE_DIFFERS, make)


def _typed(name: str, dtype: str) -> Malformed:
    def make(spec: AdapterSpec) -> bytes:
        tensors = raw_tensors(random_weights(spec, 0))
        last = raw_tensors({spec.names[-1]: random_weights(spec, 0)[spec.names[-1]]}, dtype)
        return safetensors_bytes([*tensors[:-1], *last])

    return _of(name, Reason.UPDATE_DTYPE_DIFFERS, make)


def _valued(name: str, value: float) -> Malformed:
    def make(spec: AdapterSpec) -> bytes:
        weights = random_weights(spec, 0)
        weights[spec.names[-1]][-1, -1] = value
        return safetensors_bytes(raw_tensors(weights))

    return _of(name, Reason.UPDATE_NOT_FINITE, make)


def _length(name: str, header_bytes: int) -> Malformed:
    def make(spec: AdapterSpec) -> bytes:
        return header_bytes.to_bytes(8, "little") + _honest(spec)[8:]

    return _of(name, Reason.UPDATE_HEADER_TOO_LARGE, make)


def _overlapping(spec: AdapterSpec) -> bytes:
    content = _honest(spec)
    length = int.from_bytes(content[:8], "little")
    entries = json.loads(content[8 : 8 + length])
    a, b = spec.names[0], spec.names[2]  # of equal shape
    entries[b]["data_offsets"] = entries[a]["data_offsets"]
    header = json.dumps(entries).encode()
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def _name_twice(spec: AdapterSpec) -> bytes:
    content = _honest(spec)
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length]
    first = header[1:].split(b"}, ")[0] + b"}, "
    header = b"{" + first + header[1:]
    return len(header).to_bytes(8, "little") + header + content[8 + length :]

"""Whatever bytes come: a layout that is true, or a typed refusal; and safetensors itself agrees."""

from __future__ import annotations

import json
import struct
import tempfile
from collections.abc import Callable
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize

from common.adapter import WireDtype
from common.errors import UpdateRefusedError
from common.weights_io import WeightsLayout, WeightsReader, write_weights

SHAPES = st.lists(st.integers(1, 3), min_size=1, max_size=3)
# Mostly nothing, so that whole files come up as well as damaged ones.
SLIPS = st.sampled_from([0, 0, 0, 0, 0, 0, 0, 0, 1, -1, 4, -4])


def layout_of(content: bytes) -> WeightsLayout | None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "w")
        path.write_bytes(content)
        try:
            with WeightsReader(path) as reader:
                for slot in reader.layout.tensors:
                    assert reader.tensor(slot.name).shape == slot.shape
                return reader.layout
        except UpdateRefusedError:
            return None


@st.composite
def files(draw: st.DrawFn) -> bytes:
    entries: dict[str, object] = {}
    offset = 0
    for name in draw(st.permutations(["a", "b", "c"]))[: draw(st.integers(1, 3))]:
        dtype, shape = draw(st.sampled_from(["F32", "BF16"])), draw(SHAPES)
        start, end = offset + draw(SLIPS), offset + prod(shape) * (4 if dtype == "F32" else 2) + draw(SLIPS)
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [max(start, 0), max(end, 0)]}
        offset = max(end, 0)
    header = json.dumps(dict(draw(st.permutations(list(entries.items()))))).encode()
    return struct.pack("<Q", len(header) + draw(SLIPS)) + header + bytes(max(offset + draw(SLIPS), 0))


@cache
def whole_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "w")
        write_weights(path, {"a": np.ones((2, 3)), "b": np.ones((4,))}, WireDtype.F32)
        return path.read_bytes()


@given(st.binary(max_size=64))
def test_random_bytes_are_refused(content: bytes) -> None:
    assert layout_of(content) is None


@given(files())
def test_we_accept_what_safetensors_accepts_and_see_the_same_in_it(content: bytes) -> None:
    ours = layout_of(content)
    read: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = deserialize
    try:
        theirs = dict(read(content))
    except SafetensorError:
        assert ours is None
        return
    assert ours is not None
    assert {slot.name for slot in ours.tensors} == theirs.keys()
    for slot in ours.tensors:
        assert (slot.dtype, list(slot.shape)) == (theirs[slot.name]["dtype"], theirs[slot.name]["shape"])
        assert content[slot.start : slot.end] == theirs[slot.name]["data"]


@given(st.data())
def test_a_damaged_file_is_refused_or_holds_as_many_numbers_as_before(data: st.DataObject) -> None:
    content = bytearray(whole_file())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    found = layout_of(bytes(content[: data.draw(st.integers(0, len(content)))]))
    assert found is None or sum(slot.end - slot.start for slot in found.tensors) == 40

"""The header of a safetensors file: any bytes are a layout that covers the file, or an update refused."""

from __future__ import annotations

import json
import os
from math import prod

from common.errors import UpdateRefusedError
from common.weights_layout import FILE_DTYPES, METADATA_KEY, read_layout
from tests.fuzz.target import Target


def run(content: bytes) -> None:
    """Read ``content`` as the coordinator reads an update that has arrived."""
    descriptor = os.memfd_create("update")
    try:
        os.write(descriptor, content)
        layout = read_layout(descriptor)
    except UpdateRefusedError:
        return
    finally:
        os.close(descriptor)
    assert layout.size_bytes == len(content)
    assert layout.tensors[-1].end == len(content)
    for slot, following in zip(layout.tensors, layout.tensors[1:], strict=False):
        assert slot.end == following.start
    for slot in layout.tensors:
        assert slot.end - slot.start == prod(slot.shape) * FILE_DTYPES[slot.dtype].item_bytes


def seeds() -> list[bytes]:
    """Files by the book, and one for each thing that may be wrong with them."""
    good = {"a.lora_A.weight": _entry("F32", [1, 2], 0, 8), "a.lora_B.weight": _entry("BF16", [2, 1], 8, 12)}
    headers = [
        good,
        {METADATA_KEY: {"format": "pt"}, **good},
        {METADATA_KEY: {"format": "pt"}},
        {"a": _entry("F64", [1], 0, 8)},
        {"a": _entry("F32", [1], 0, 4)},
        {"a": _entry("F32", [], 0, 4)},
        {"a": _entry("F32", [0], 0, 0)},
        {"a": _entry("F32", [True], 0, 4)},
        {"a": _entry("F32", [3], 4, 16)},
        {"a": _entry("F32", [3], 0, 4)},
        {"a": {"dtype": 1, "shape": [], "data_offsets": []}},
        {"a": {"dtype": "F32"}},
        {"a": 1.5},
        {"\u00e9": _entry("F32", [3], 0, 12)},
        {"": _entry("F32", [3], 0, 12)},
    ]
    files = [_file(json.dumps(header).encode()) for header in headers]
    texts = [
        b'{"a":{},"a":{}}',
        b'{"a":NaN}',
        b'{"a":12345678901234567890123}',
        b'{"a":-9223372036854775808}',
        b"{",
        b"{}",
        b"[]",
    ]
    return [b"", b"\x00" * 7, b"\xff" * 8, (2**30).to_bytes(8, "little") + b"{", *files, *map(_file, texts)]


def _entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def _file(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + bytes(12)


TARGET = Target(modules=("common.weights_layout",), run=run, seeds=seeds)

from __future__ import annotations

import json
import struct
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from common.adapter import MAX_NAME_LENGTH, MAX_TENSORS, TensorSpec, WireDtype
from common.errors import Reason, UpdateRefusedError
from common.ids import digest_of
from common.weights_io import MAX_HEADER_BYTES, WeightsReader, WeightsWriter, check_update, file_digest, write_weights

A = "m.lora_A.weight"
B = "m.lora_B.weight"
SPECS = (TensorSpec(name=A, shape=(2, 3)), TensorSpec(name=B, shape=(4, 2)))
VALUES = {A: np.arange(6, dtype=np.float32).reshape(2, 3), B: np.ones((4, 2), dtype=np.float32)}


def entry(shape: list[int], start: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def file_of(path: Path, header: bytes | dict[str, object], content: bytes = b"") -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + content)
    return path


def reason_of(action: Callable[[], object]) -> Reason:
    with pytest.raises(UpdateRefusedError) as caught:
        action()
    return caught.value.reason


def open_reason(path: Path) -> Reason:
    return reason_of(lambda: WeightsReader(path))


def update_reason(path: Path, dtype: WireDtype = WireDtype.F32) -> Reason:
    with WeightsReader(path) as reader:
        return reason_of(lambda: check_update(reader, SPECS, dtype))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "update.safetensors"


# --- opening


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", Reason.UPDATE_TRUNCATED),
        (b"\xff" * 7, Reason.UPDATE_TRUNCATED),
        (b"PK\x03\x04" + b"\x00" * 40, Reason.UPDATE_NOT_SAFETENSORS),
        (b"Patient is a 40-year-old", Reason.UPDATE_NOT_SAFETENSORS),
        (struct.pack("<Q", 2 * 2**30) + b"{}", Reason.UPDATE_HEADER_TOO_LARGE),
        (struct.pack("<Q", 2**64 - 1), Reason.UPDATE_HEADER_TOO_LARGE),
        (struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{", Reason.UPDATE_HEADER_TOO_LARGE),
        (struct.pack("<Q", 100) + b'{"a"', Reason.UPDATE_TRUNCATED),
        (struct.pack("<Q", 2) + b"{}", Reason.UPDATE_TENSORS_DIFFER),
        (struct.pack("<Q", 0) + b"{}", Reason.UPDATE_NOT_SAFETENSORS),
    ],
)
def test_a_file_that_does_not_begin_as_safetensors_is_refused(path: Path, content: bytes, reason: Reason) -> None:
    path.write_bytes(content)
    assert open_reason(path) is reason


@pytest.mark.parametrize(
    "header",
    [
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[true],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"x":1}}',
        b'{"a":{"dtype":"F32","shape":[1]}}',
        b'{"a":{"dtype":"F32","shape":1,"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
        b'{"a":[]}',
        b'{"":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"a\\u0000b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"\\ud800":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"\xff":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}} trailing',
        b'{"a":{"dtype":"F32","shape":[' + b"1" * 20 + b'],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[' + b"1" * 5000 + b'],"data_offsets":[0,4]}}',
        b'{"' + b"n" * 257 + b'":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}',
    ],
)
def test_a_header_that_breaks_the_format_is_refused(path: Path, header: bytes) -> None:
    assert open_reason(file_of(path, header, b"\0" * 4)) is Reason.UPDATE_NOT_SAFETENSORS


@pytest.mark.parametrize(
    ("header", "content"),
    [
        ({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, 4),  # both in the same place
        ({"a": entry([2], 0, 8), "b": entry([1], 4, 8)}, 8),  # one inside the other
        ({"a": entry([1], 0, 4), "b": entry([1], 8, 12)}, 12),  # a hole
        ({"a": entry([1], 0, 4)}, 5),  # bytes that belong to nobody
    ],
)
def test_tensors_that_do_not_tile_the_file_are_refused(path: Path, header: dict[str, object], content: int) -> None:
    assert open_reason(file_of(path, header, b"\0" * content)) is Reason.UPDATE_NOT_SAFETENSORS


def test_a_file_that_ends_before_its_last_tensor_is_refused(path: Path) -> None:
    assert open_reason(file_of(path, {"a": entry([2], 0, 8)}, b"\0" * 7)) is Reason.UPDATE_TRUNCATED


@pytest.mark.parametrize("shape", [[], [0], [1, 0], [2**20 + 1], [1] * 9, [-1]])
def test_dimensions_outside_their_bounds_are_refused(path: Path, shape: list[int]) -> None:
    assert open_reason(file_of(path, {"a": entry(shape, 0, 4)}, b"\0" * 4)) is Reason.UPDATE_SHAPE_DIFFERS


@pytest.mark.parametrize("dtype", ["F16", "F64", "I32", "bf16", "BF17"])
def test_a_dtype_that_does_not_travel_is_refused(path: Path, dtype: str) -> None:
    assert open_reason(file_of(path, {"a": entry([1], 0, 4, dtype)}, b"\0" * 4)) is Reason.UPDATE_DTYPE_DIFFERS


@pytest.mark.parametrize(
    "unit",
    [
        b"[",
        b"{",
        b'{"a":',
        b"[],",
        b'"a":0,',
        b'"a":[{},',
        b"1,",
        b" ",
        b"\x00",
        b"9",
        b'"',
        b"\\",
        b"\xf0\x9f\x98\x80",
    ],
)
def test_a_hostile_header_of_the_largest_size_costs_little_memory(path: Path, unit: bytes) -> None:
    header = (b'{"a":' + unit * (MAX_HEADER_BYTES // len(unit)))[:MAX_HEADER_BYTES]
    file_of(path, header)
    tracemalloc.start()
    try:
        with pytest.raises(UpdateRefusedError):
            WeightsReader(path)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # The header, its text (four bytes a character once one lies outside the basic plane), and what JSON makes of it.
    assert peak_bytes < 8 * MAX_HEADER_BYTES


def test_a_header_of_the_largest_size_is_read(path: Path) -> None:
    header = json.dumps({"a": entry([1], 0, 4)}).encode().ljust(MAX_HEADER_BYTES)
    with WeightsReader(file_of(path, header, b"\0" * 4)) as reader:
        assert reader.tensor("a").shape == (1,)


def test_an_adapter_of_the_most_tensors_and_the_longest_names_is_read(path: Path) -> None:
    names = [f"{i:05}".ljust(MAX_NAME_LENGTH, "n") for i in range(MAX_TENSORS)]
    write_weights(path, {name: np.zeros((1, 1)) for name in names}, WireDtype.F32)
    with WeightsReader(path) as reader:
        assert len(reader.layout.tensors) == MAX_TENSORS


def test_a_refusal_never_quotes_the_file(path: Path) -> None:
    file_of(path, b'{"a": "seventy-year-old man with chest pain" oops')
    with pytest.raises(UpdateRefusedError) as caught:
        WeightsReader(path)
    assert "chest" not in repr(caught.value) + repr(caught.value.__cause__)
    assert caught.value.__suppress_context__


def test_the_metadata_may_say_anything_that_is_json(path: Path) -> None:
    header = {"__metadata__": {"format": "pt", "note": "{[,"}, "a": entry([1], 0, 4)}
    with WeightsReader(file_of(path, header, b"\0" * 4)) as reader:
        assert [slot.name for slot in reader.layout.tensors] == ["a"]


def test_the_layout_gives_absolute_offsets_in_the_order_of_the_file(path: Path) -> None:
    file_of(path, {"b": entry([1], 4, 8), "a": entry([1], 0, 4)}, struct.pack("<ff", 1.5, 2.5))
    with WeightsReader(path) as reader:
        first, second = reader.layout.tensors
        assert (first.name, second.name) == ("a", "b")
        assert path.read_bytes()[second.start : second.end] == struct.pack("<f", 2.5)
        assert reader.layout.size_bytes == second.end == path.stat().st_size


def test_a_file_that_shrinks_after_opening_is_refused(path: Path) -> None:
    write_weights(path, VALUES, WireDtype.F32)
    with WeightsReader(path) as reader:
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 1)
        assert reason_of(lambda: reader.tensor(B)) is Reason.UPDATE_TRUNCATED


def test_a_refused_file_is_closed(path: Path) -> None:
    path.write_bytes(b"nothing")
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    open_reason(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


def test_many_threads_read_from_one_reader(path: Path) -> None:
    weights = {f"t{i:02}": np.full((64, 64), i, dtype=np.float32) for i in range(32)}
    write_weights(path, weights, WireDtype.BF16)
    with WeightsReader(path) as reader, ThreadPoolExecutor(8) as pool:
        for name, values in zip(weights, pool.map(reader.tensor, weights), strict=True):
            np.testing.assert_array_equal(values, weights[name])


def test_a_tensor_is_float32_in_c_order_and_its_own_memory(path: Path) -> None:
    write_weights(path, VALUES, WireDtype.BF16)
    with WeightsReader(path) as reader:
        values = reader.tensor(A)
        values[0, 0] = 99
        assert values.dtype == np.dtype(np.float32) and values.flags.c_contiguous
        np.testing.assert_array_equal(reader.tensor(A), VALUES[A])


# --- an update against its specification


def test_an_update_as_specified_passes(path: Path) -> None:
    write_weights(path, VALUES, WireDtype.F32)
    with WeightsReader(path) as reader:
        check_update(reader, SPECS, WireDtype.F32)


def test_a_missing_tensor_is_refused_by_name(path: Path) -> None:
    write_weights(path, {A: VALUES[A]}, WireDtype.F32)
    with (
        WeightsReader(path) as reader,
        pytest.raises(UpdateRefusedError, match=f"missing: '{B}'; extra: none") as caught,
    ):
        check_update(reader, SPECS, WireDtype.F32)
    assert caught.value.reason is Reason.UPDATE_TENSORS_DIFFER


def test_an_extra_tensor_is_refused(path: Path) -> None:
    write_weights(path, {**VALUES, "x": VALUES[A]}, WireDtype.F32)
    assert update_reason(path) is Reason.UPDATE_TENSORS_DIFFER


def test_only_the_first_of_many_wrong_names_are_listed(path: Path) -> None:
    write_weights(path, {f"x{i}": VALUES[A] for i in range(9)}, WireDtype.F32)
    with WeightsReader(path) as reader, pytest.raises(UpdateRefusedError, match="'x0', 'x1', 'x2' and 6 more"):
        check_update(reader, SPECS, WireDtype.F32)


@pytest.mark.parametrize("shape", [(3, 2), (6,), (1, 3), (1, 2, 3), (2, 1)])
def test_another_shape_is_refused_even_if_it_would_broadcast(path: Path, shape: tuple[int, ...]) -> None:
    write_weights(path, {**VALUES, A: np.zeros(shape, dtype=np.float32)}, WireDtype.F32)
    assert update_reason(path) is Reason.UPDATE_SHAPE_DIFFERS


def test_another_dtype_is_refused(path: Path) -> None:
    write_weights(path, VALUES, WireDtype.F32)
    assert update_reason(path, WireDtype.BF16) is Reason.UPDATE_DTYPE_DIFFERS


@pytest.mark.parametrize("bits", [0x7F800000, 0xFF800000, 0x7FC00000, 0x7F800001])
def test_one_number_that_is_not_finite_is_refused_by_its_tensor_alone(path: Path, bits: int) -> None:
    content = struct.pack("<5fI8f", *range(5), bits, *range(8))
    file_of(path, {A: entry([2, 3], 0, 24), B: entry([4, 2], 24, 56)}, content)
    with WeightsReader(path) as reader, pytest.raises(UpdateRefusedError, match="lora_A") as caught:
        check_update(reader, SPECS, WireDtype.F32)
    assert caught.value.reason is Reason.UPDATE_NOT_FINITE
    assert "nan" not in caught.value.message and "inf" not in caught.value.message


# --- writing


def test_equal_values_give_equal_bytes(tmp_path: Path) -> None:
    first = write_weights(tmp_path / "1", VALUES, WireDtype.BF16)
    second = write_weights(tmp_path / "2", dict(reversed(VALUES.items())), WireDtype.BF16)
    assert first == second == file_digest(tmp_path / "2") == digest_of((tmp_path / "1").read_bytes())


def test_digest_and_size_are_those_of_the_file(path: Path) -> None:
    with WeightsWriter(path, SPECS, WireDtype.F32) as writer:
        for name, values in VALUES.items():
            writer.write(name, values)
    assert (writer.digest, writer.size_bytes) == (file_digest(path), path.stat().st_size)


def test_values_that_are_not_contiguous_are_written_in_c_order(path: Path) -> None:
    write_weights(path, {A: np.asfortranarray(VALUES[A]), B: np.ones((2, 4), dtype=np.float32).T}, WireDtype.BF16)
    with WeightsReader(path) as reader:
        np.testing.assert_array_equal(reader.tensor(A), VALUES[A])


def test_tensors_begin_at_multiples_of_eight_bytes(path: Path) -> None:
    write_weights(path, VALUES, WireDtype.F32)
    with WeightsReader(path) as reader:
        assert reader.layout.tensors[0].start % 8 == 0


@pytest.mark.parametrize(("name", "shape"), [(B, (4, 2)), (A, (3, 2)), ("x", (2, 3))])
def test_a_tensor_that_is_not_the_next_one_is_not_written(path: Path, name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=f"got '{name}'"), WeightsWriter(path, SPECS, WireDtype.F32) as writer:
        writer.write(name, np.zeros(shape))


def test_a_tensor_after_the_last_one_is_not_written(path: Path) -> None:
    with pytest.raises(ValueError, match="expected None"), WeightsWriter(path, SPECS, WireDtype.F32) as writer:
        for name in (A, B, B):
            writer.write(name, VALUES[name])


@pytest.mark.parametrize("names", [[], [A]])
def test_a_file_that_is_not_whole_is_not_kept_and_the_old_one_is(path: Path, names: list[str]) -> None:
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match="expected 2 tensors"), WeightsWriter(path, SPECS, WireDtype.F32) as writer:
        for name in names:
            writer.write(name, VALUES[name])
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert path.read_bytes() == b"old"


def test_the_file_is_not_there_before_it_is_whole(path: Path) -> None:
    with WeightsWriter(path, SPECS, WireDtype.F32) as writer:
        writer.write(A, VALUES[A])
        assert not path.exists()
        writer.write(B, VALUES[B])
    assert path.exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300, 3.4e38])
def test_a_number_that_is_not_finite_in_the_files_dtype_is_not_written(path: Path, value: float) -> None:
    values = {**{name: each.astype(np.float64) for name, each in VALUES.items()}}
    values[B][0, 0] = value
    assert reason_of(lambda: write_weights(path, values, WireDtype.BF16)) is Reason.UPDATE_NOT_FINITE
    assert not list(path.parent.iterdir())


def test_memory_is_bounded_by_the_largest_tensor(path: Path) -> None:
    tensor = np.ones((512, 512), dtype=np.float32)
    specs = [TensorSpec(name=f"t{i}", shape=tensor.shape) for i in range(24)]
    tracemalloc.start()
    try:
        with WeightsWriter(path, specs, WireDtype.F32) as writer:
            for spec in specs:
                writer.write(spec.name, tensor)
        with WeightsReader(path) as reader:
            check_update(reader, specs, WireDtype.F32)
        file_digest(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * tensor.nbytes < path.stat().st_size / 5
    finally:
        tracemalloc.stop()

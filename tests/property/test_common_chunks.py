from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.chunks import MAX_CHUNK_BYTES, MAX_MESSAGE_BYTES, chunk_ranges, next_offset
from common.errors import FedMedError, InputInvalidError, Reason, TransferBrokenError, UpdateRefusedError
from fedmedlora.v1 import rounds_pb2, types_pb2

SIZES = st.one_of(st.integers(0, 10), st.integers(0, 5 * MAX_CHUNK_BYTES))


@given(SIZES, st.data())
def test_chunks_cover_the_rest_of_a_file_once_and_in_order(size_bytes: int, data: st.DataObject) -> None:
    offset = data.draw(st.integers(0, size_bytes))
    position = offset
    for start, length in chunk_ranges(size_bytes, offset):
        assert start == position and 1 <= length <= MAX_CHUNK_BYTES
        position = next_offset(position, start, length, size_bytes)
    assert position == size_bytes


@pytest.mark.parametrize("offset", [-1, 11])
def test_an_offset_outside_the_file_is_refused(offset: int) -> None:
    with pytest.raises(InputInvalidError) as caught:
        chunk_ranges(10, offset)
    assert caught.value.reason is Reason.FIELD_INVALID


@pytest.mark.parametrize(
    ("chunk", "kind", "reason"),
    [
        ((100, 100, MAX_CHUNK_BYTES + 1, 2**40), InputInvalidError, Reason.CHUNK_TOO_LARGE),
        ((100, 100, 0, 200), InputInvalidError, Reason.FIELD_INVALID),
        ((100, 99, 10, 200), TransferBrokenError, Reason.OFFSET_DIFFERS),
        ((100, 101, 10, 200), TransferBrokenError, Reason.OFFSET_DIFFERS),
        ((100, 100, 101, 200), UpdateRefusedError, Reason.UPDATE_TOO_LARGE),
    ],
)
def test_a_chunk_that_does_not_continue_the_file_is_refused(
    chunk: tuple[int, int, int, int], kind: type[FedMedError], reason: Reason
) -> None:
    with pytest.raises(kind) as caught:
        next_offset(*chunk)
    assert caught.value.reason is reason


def test_the_largest_chunk_fits_into_a_message() -> None:
    chunk = types_pb2.Chunk(offset=2**63, content=b"\xff" * MAX_CHUNK_BYTES)
    assert rounds_pb2.UploadUpdateRequest(chunk=chunk).ByteSize() <= MAX_MESSAGE_BYTES
    assert rounds_pb2.DownloadAdapterResponse(chunk=chunk).ByteSize() <= MAX_MESSAGE_BYTES

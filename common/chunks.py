"""How a file is cut for the wire and put together again, by offsets alone. Holds no bytes and opens nothing."""

from __future__ import annotations

from collections.abc import Iterator

from common.errors import InputInvalidError, Reason, TransferBrokenError, UpdateRefusedError

# A message is at most 1 MiB; 4 KiB are left for the fields around the content.
MAX_MESSAGE_BYTES = 2**20
MAX_CHUNK_BYTES = MAX_MESSAGE_BYTES - 4 * 2**10


def chunk_ranges(size_bytes: int, offset: int = 0) -> Iterator[tuple[int, int]]:
    """Yield ``(start, length)`` of every chunk from ``offset`` to the end of a file of ``size_bytes``.

    Raises:
        InputInvalidError: FIELD_INVALID, when the offset lies outside the file.
    """
    if not 0 <= offset <= size_bytes:
        raise InputInvalidError(Reason.FIELD_INVALID, f"offset: expected 0 to {size_bytes}, got {offset}")
    return ((start, min(MAX_CHUNK_BYTES, size_bytes - start)) for start in range(offset, size_bytes, MAX_CHUNK_BYTES))


def next_offset(expected_offset: int, chunk_offset: int, length: int, size_bytes: int) -> int:
    """Where the receiver stands after a chunk.

    Args:
        expected_offset: Where it stands now.
        chunk_offset: Where the chunk says it begins.
        length: Bytes in the chunk.
        size_bytes: Announced size of the whole file.

    Raises:
        InputInvalidError: CHUNK_TOO_LARGE, or FIELD_INVALID for an empty chunk, which would let a stream never end.
        TransferBrokenError: OFFSET_DIFFERS.
        UpdateRefusedError: UPDATE_TOO_LARGE, when the chunk reaches past the announced size.
    """
    if length > MAX_CHUNK_BYTES:
        raise InputInvalidError(
            Reason.CHUNK_TOO_LARGE, f"chunk: expected at most {MAX_CHUNK_BYTES} bytes, got {length}"
        )
    if length < 1:
        raise InputInvalidError(Reason.FIELD_INVALID, f"chunk: expected at least 1 byte, got {length}")
    if chunk_offset != expected_offset:
        raise TransferBrokenError(
            Reason.OFFSET_DIFFERS, f"chunk offset: expected {expected_offset}, got {chunk_offset}"
        )
    end = chunk_offset + length
    if end > size_bytes:
        raise UpdateRefusedError(
            Reason.UPDATE_TOO_LARGE, f"file: expected {size_bytes} bytes as announced, got at least {end}"
        )
    return end

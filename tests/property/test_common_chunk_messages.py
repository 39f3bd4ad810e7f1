"""Chunks are the same bytes with and without protobuf, in both messages, and nothing else is taken for one."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from common.chunk_messages import decode_chunk, encode_chunk
from common.chunks import MAX_CHUNK_BYTES
from fedmedlora.v1 import rounds_pb2, types_pb2

offsets = st.one_of(st.integers(0, 300), st.integers(0, 2**64 - 1))
contents = st.one_of(st.binary(min_size=1, max_size=300), st.integers(1, MAX_CHUNK_BYTES).map(bytes))


def _messages(offset: int, content: bytes) -> tuple[bytes, bytes]:
    chunk = types_pb2.Chunk(offset=offset, content=content)
    upload, download = rounds_pb2.UploadUpdateRequest(chunk=chunk), rounds_pb2.DownloadAdapterResponse(chunk=chunk)
    return upload.SerializeToString(), download.SerializeToString()


@given(offsets, contents)
def test_a_chunk_is_written_as_protobuf_writes_it(offset: int, content: bytes) -> None:
    assert (encode_chunk(offset, content),) * 2 == _messages(offset, content)


@given(offsets, contents)
def test_what_protobuf_writes_is_read(offset: int, content: bytes) -> None:
    message, _ = _messages(offset, content)
    chunk = decode_chunk(message)
    assert chunk is not None
    assert (chunk.offset, bytes(chunk.content), chunk.size_bytes) == (offset, content, len(message))


def _changed(message: bytes, at: int, kept: int, put: bytes) -> bytes:
    return message[:at] + put + message[at + kept :]


near_chunks = st.builds(
    _changed,
    st.builds(encode_chunk, offsets, st.binary(min_size=1, max_size=8)),
    st.integers(0, 24),
    st.integers(0, 4),
    st.binary(max_size=4),
)
# Bytes of which messages are made: the tags, and numbers that are small, or go on.
made_of_tags = st.lists(st.sampled_from([0x0A, 0x12, 0x08, 0x10, 0, 1, 2, 3, 4, 5, 6, 0x80, 0xFF]), max_size=16)


@given(st.one_of(near_chunks, made_of_tags.map(bytes), st.binary(max_size=32)))
def test_what_is_read_as_a_chunk_protobuf_reads_alike(message: bytes) -> None:
    chunk = decode_chunk(message)
    if chunk is None:
        return
    try:
        parsed = rounds_pb2.UploadUpdateRequest.FromString(message)
    except DecodeError as error:
        raise AssertionError("protobuf reads no message there") from error
    assert parsed.WhichOneof("part") == "chunk"
    assert (parsed.chunk.offset, parsed.chunk.content) == (chunk.offset, bytes(chunk.content))


def test_headers_and_empty_chunks_are_left_to_protobuf() -> None:
    header = rounds_pb2.UploadUpdateRequest(header=rounds_pb2.UploadHeader(digest="sha256:" + "0" * 64))
    empty = rounds_pb2.UploadUpdateRequest(chunk=types_pb2.Chunk(offset=7))
    assert decode_chunk(header.SerializeToString()) is None
    assert decode_chunk(empty.SerializeToString()) is None
    assert decode_chunk(b"") is None

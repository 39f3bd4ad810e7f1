"""The two messages that carry chunks, written and read without protobuf, which copies each chunk three times more.

`UploadUpdateRequest` and `DownloadAdapterResponse` hold a `Chunk` in the same field, so a chunk is the same bytes in
both, and those are protobuf's own (https://protobuf.dev/programming-guides/encoding). What is written otherwise than
protobuf writes it, a header too, is left to protobuf to read. Checks no bound: `common.chunks` does.
"""

from __future__ import annotations

from dataclasses import dataclass

UPLOAD_UPDATE = "/fedmedlora.v1.RoundService/UploadUpdate"
DOWNLOAD_ADAPTER = "/fedmedlora.v1.RoundService/DownloadAdapter"

# A tag is the field's number and its wire type; of the messages' field `chunk`, and of a Chunk's two.
_CHUNK, _OFFSET, _CONTENT = 2 << 3 | 2, 1 << 3 | 0, 2 << 3 | 2
_VARINT_BYTES = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkMessage:
    """A message with a chunk, ``size_bytes`` long; ``content`` is part of the message's bytes, and keeps them."""

    offset: int
    content: memoryview
    size_bytes: int


def encode_chunk(offset: int, content: bytes) -> bytes:
    """The message that carries ``content``, which is not empty, as protobuf writes it: zeros are left out."""
    inner = (_varint(_OFFSET) + _varint(offset) if offset else b"") + _varint(_CONTENT) + _varint(len(content))
    return b"".join((_varint(_CHUNK), _varint(len(inner) + len(content)), inner, content))


def decode_chunk(message: bytes) -> ChunkMessage | None:
    """The chunk in ``message``, if it is one as :func:`encode_chunk` writes it; else None."""
    length, at = _tagged(message, 0, _CHUNK)
    if at + length != len(message):
        return None
    offset, after = _tagged(message, at, _OFFSET)
    if offset:
        at = after
    length, at = _tagged(message, at, _CONTENT)
    if not length or at + length != len(message):
        return None
    return ChunkMessage(offset=offset, content=memoryview(message)[at:], size_bytes=len(message))


def _varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first; the highest bit says that more follow."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _tagged(message: bytes, at: int, tag: int) -> tuple[int, int]:
    """The number behind ``tag`` at ``at``, and where it ends; 0 when there is another tag, or no number of 64 bits."""
    if message[at : at + 1] != bytes((tag,)):
        return 0, at
    value = 0
    for index, byte in enumerate(message[at + 1 : at + 1 + _VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return (value, at + index + 2) if value < 2**64 else (0, at)
    return 0, at

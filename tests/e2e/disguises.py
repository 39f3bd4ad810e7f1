"""The forms in which a word may lie in a file or travel: as it is, encoded, packed, or as a model's tokens."""

from __future__ import annotations

import base64
import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

_TOKEN_BYTES = (2, 4, 8)


def disguises(word: str, token_ids: Callable[[str], Sequence[int]]) -> frozenset[bytes]:
    """What to look for so that ``word`` is found in any of these forms."""
    plain = word.encode()
    spellings = {word, word.lower(), word.upper(), word[::-1]}
    found = {spelling.encode(code) for spelling in spellings for code in ("utf-8", "utf-16-le", "utf-16-be")}
    found |= {plain.hex().encode(), plain.hex().upper().encode(), plain.hex(" ").encode()}
    found |= {base64.b64encode(b" " * shift + plain)[4 if shift else 0 : -4] for shift in range(3)}
    found.add("".join(f"\\u{ord(letter):04x}" for letter in word).encode())
    ids = list(token_ids(word))
    found |= {b"".join(number.to_bytes(size, "little") for number in ids) for size in _TOKEN_BYTES}
    return frozenset(found | {separator.join(map(str, ids)).encode() for separator in (",", ", ", " ")} | {_json(word)})


def _json(word: str) -> bytes:
    """As a list of letters."""
    return json.dumps(list(word)).encode()


def unpacked(content: bytes) -> Iterator[bytes]:
    """``content``, and what it is a packed form of."""
    yield content
    with suppress(OSError, EOFError, zlib.error):
        yield gzip.decompress(content)
    with suppress(zlib.error):
        yield zlib.decompress(content)
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(content)) as archive:
        yield from (archive.read(name) for name in archive.namelist())

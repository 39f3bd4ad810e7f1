"""A hash chain over JSON lines: each entry carries the SHA-256 of the line before it. Pure; it opens no file.

An entry is one line of canonical JSON with, beside its own keys, `sequence` (from 1) and `previous`, the digest of the
line before it. Whoever keeps a head (the number and digest of the last line) can tell later whether the lines up to
it are still the same; what was cut off behind a kept head, or made anew from the first line on by somebody who holds
the file, shows against such a head alone. The construction is Haber and Stornetta's linear linking ("How to
time-stamp a digital document", J. Cryptology 3, 1991, section 5.1).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from common.errors import InputInvalidError
from common.ids import Digest, check_digest, digest_of

SEQUENCE_KEY = "sequence"
PREVIOUS_KEY = "previous"
# What the first entry names as its previous one.
NO_DIGEST = Digest("sha256:" + "0" * 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainHead:
    """Where a chain ends: the number of its last entry (0 for none) and the digest of that entry's line."""

    sequence: int
    digest: Digest

    def __str__(self) -> str:
        return f"{self.sequence}:{self.digest}"


EMPTY_CHAIN = ChainHead(sequence=0, digest=NO_DIGEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainEntry:
    """One entry as it was read: what it says, and where the chain stands behind it."""

    document: dict[str, object]
    head: ChainHead


class ChainBrokenError(ValueError):
    """A line does not follow the one before it; ``sequence`` is the number that was expected of it."""

    def __init__(self, sequence: int, problem: str) -> None:
        super().__init__(f"entry {sequence}: {problem}")
        self.sequence = sequence
        self.problem = problem


def canonical_json(document: Mapping[str, object]) -> bytes:
    """The one way to write ``document``: ASCII, keys sorted, no blanks (as RFC 8785 does, but for its numbers).

    Raises:
        ValueError: It holds NaN or infinity, which JSON has not.
    """
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def sealed(head: ChainHead, document: Mapping[str, object]) -> tuple[bytes, ChainHead]:
    """The line, without its newline, that adds ``document`` to the chain that ends at ``head``; and the new head.

    Raises:
        ValueError: ``document`` uses a key of the chain's own, or is no JSON.
    """
    if SEQUENCE_KEY in document or PREVIOUS_KEY in document:
        raise ValueError(f"document: expected no key {SEQUENCE_KEY!r} or {PREVIOUS_KEY!r}")
    sequence = head.sequence + 1
    line = canonical_json({**document, SEQUENCE_KEY: sequence, PREVIOUS_KEY: head.digest})
    return line, ChainHead(sequence=sequence, digest=digest_of(line))


def entry_after(head: ChainHead, line: bytes) -> ChainEntry:
    """The entry in ``line``, which must be the one that follows ``head``.

    Raises:
        ChainBrokenError: It is another, was changed, or is not as this module writes it.
    """
    expected = head.sequence + 1
    try:
        document = json.loads(line)
        is_canonical = isinstance(document, dict) and canonical_json(document) == line
    except (ValueError, RecursionError):
        raise ChainBrokenError(expected, "expected a line of JSON") from None
    if not is_canonical:
        raise ChainBrokenError(expected, "expected an object in canonical JSON")
    if type(document.get(SEQUENCE_KEY)) is not int or document[SEQUENCE_KEY] != expected:
        raise ChainBrokenError(expected, f"expected number {expected}, got {str(document.get(SEQUENCE_KEY))[:20]}")
    if document.get(PREVIOUS_KEY) != head.digest:
        raise ChainBrokenError(
            expected, f"expected {head.digest} before it, got {str(document.get(PREVIOUS_KEY))[:80]}"
        )
    return ChainEntry(document=document, head=ChainHead(sequence=expected, digest=digest_of(line)))


def entries_of(lines: Iterable[bytes], start: ChainHead = EMPTY_CHAIN) -> Iterator[ChainEntry]:
    """The entries in ``lines``, each checked against the one before it; ``start`` is where the lines go on from.

    Raises:
        ChainBrokenError: At the first line that does not follow.
    """
    head = start
    for line in lines:
        entry = entry_after(head, line)
        head = entry.head
        yield entry


def parse_head(text: str) -> ChainHead:
    """The head that ``str(head)`` wrote, such as ``12:sha256:...``.

    Raises:
        ValueError: With what was expected.
    """
    number, _, digest = text.partition(":")
    if not (number.isascii() and number.isdigit() and len(number) <= 18):
        raise ValueError(f"head: expected '<number>:sha256:<64 hex digits>', got {text[:100]!r}")
    try:
        return ChainHead(sequence=int(number), digest=check_digest(digest, "head"))
    except InputInvalidError as error:
        raise ValueError(error.message) from None

"""The egress ledger's files: segments of chained JSON lines, and the open folds with the head. Decides nothing.

``ledger/00000001.jsonl`` and so on hold the chain, only ever added to. ``ledger/open.json`` is replaced whole: the head
of the chain as last written, and the messages that are being folded.
"""

from __future__ import annotations

import errno
import json
import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError

from common.errors import OverloadedError, Reason
from common.files import make_folder, sync_file, sync_folder, write_whole
from common.hash_chain import (
    EMPTY_CHAIN,
    PREVIOUS_KEY,
    SEQUENCE_KEY,
    ChainBrokenError,
    ChainEntry,
    ChainHead,
    entry_after,
    parse_head,
    sealed,
)
from common.ids import digest_of
from site_agent.domain.ledger import FoldEntry, LedgerEntry, MendedEntry, SegmentEntry

OPEN_FILE = "open.json"
SEGMENT_BYTES = 8 * 2**20
_BLOCK_BYTES = 2**16
_NEWLINE = b"\n"

_ENTRY: TypeAdapter[LedgerEntry] = TypeAdapter(Annotated[LedgerEntry, Field(discriminator="kind")])


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenState:
    """What ``open.json`` holds; the head as ``str(head)``, empty before the first entry."""

    head: str = ""
    folds: tuple[FoldEntry, ...] = ()


_OPEN = TypeAdapter(OpenState)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """The end of the last segment: its number (0 when there is none), where whole lines end, and what is torn."""

    segment: int
    end: int
    last: ChainEntry | None
    torn: bytes = b""

    @property
    def head(self) -> ChainHead:
        """Where the chain ends."""
        return EMPTY_CHAIN if self.last is None else self.last.head


def broken(folder: Path, problem: str) -> OverloadedError:
    """The error of a ledger that somebody changed, with what to do."""
    remedy = f"keep the folder as evidence under another name; a new ledger begins when {folder} is gone"
    return OverloadedError(Reason.LEDGER_BROKEN, f"{folder}: {problem}; nothing leaves. What to do: {remedy}")


def segment_path(folder: Path, number: int) -> Path:
    """The file of segment ``number``, from 1."""
    return folder / f"{number:08d}.jsonl"


def segments_of(folder: Path) -> list[Path]:
    """All segments that are there, in their order."""
    if not folder.is_dir():
        return []
    names = (name for name in os.listdir(folder) if name.endswith(".jsonl") and name[:-6].isdigit())  # noqa: PTH208
    return [folder / name for name in sorted(names)]


def parse_entry(entry: ChainEntry) -> LedgerEntry:
    """The typed entry of a line that was found in its place.

    Raises:
        ChainBrokenError: It is in its place, but is no entry of this version.
    """
    chained = (SEQUENCE_KEY, PREVIOUS_KEY)
    try:
        return _ENTRY.validate_python({key: value for key, value in entry.document.items() if key not in chained})
    except ValidationError:
        raise ChainBrokenError(entry.head.sequence, "expected an entry of a ledger, as this version knows it") from None


def document_of(entry: LedgerEntry) -> dict[str, object]:
    """The JSON of an entry, without what the chain adds."""
    document: dict[str, object] = _ENTRY.dump_python(entry, mode="json")
    return document


def read_open(folder: Path) -> OpenState:
    """What is in ``open.json``, or nothing.

    Raises:
        OverloadedError: LEDGER_BROKEN.
    """
    try:
        return _OPEN.validate_json((folder / OPEN_FILE).read_bytes())
    except FileNotFoundError:
        return OpenState()
    except ValidationError:
        raise broken(folder, f"{OPEN_FILE}: expected a head and folds") from None


def save_open(folder: Path, state: OpenState) -> None:
    """Replace ``open.json``."""
    write_whole(folder / OPEN_FILE, _OPEN.dump_json(state), 0o600)


def read_tail(folder: Path) -> Tail:
    """The end of the ledger in ``folder``; only its last line is looked at.

    Raises:
        OverloadedError: LEDGER_BROKEN, the last whole line is no entry.
        OSError: It cannot be read.
    """
    segments = segments_of(folder)
    if not segments:
        return Tail(segment=0, end=0, last=None)
    with segments[-1].open("rb") as file:
        line, torn, end = _last_line(file.fileno())
    try:
        return Tail(segment=int(segments[-1].stem), end=end, last=entry_after(head_before(line), line), torn=torn)
    except ChainBrokenError as error:
        raise broken(folder, f"{segments[-1].name}: {error}") from None


def head_of(folder: Path, kept: OpenState) -> ChainHead:
    """The head that was written down after the last entry.

    Raises:
        OverloadedError: LEDGER_BROKEN, it is none.
    """
    try:
        return parse_head(kept.head) if kept.head else EMPTY_CHAIN
    except ValueError as error:
        raise broken(folder, f"{OPEN_FILE}: {error}") from None


def make_durable(folder: Path, kept: OpenState, tail: Tail) -> None:
    """Sync what a program that was killed may have written and not synced, before anything is built on it.

    Raises:
        OverloadedError: LEDGER_BROKEN, the chain ends before the head that was written down after its last entry.
    """
    head = head_of(folder, kept)
    if head.sequence >= tail.head.sequence:
        raise broken(folder, f"expected the chain to reach {head}, it ends at {tail.head}")
    sync_file(segment_path(folder, tail.segment))
    sync_folder(folder)


def append(folder: Path, tail: Tail, entry: LedgerEntry, site: str, at: datetime) -> Tail:
    """Add ``entry`` durably; a new segment is begun first when there is none, or the last one is full.

    Raises:
        OSError: It is not there, or not durable.
    """
    if tail.segment == 0 or tail.end >= SEGMENT_BYTES:
        tail = _begin_segment(folder, tail, SegmentEntry(at=at, segment=tail.segment + 1, site=site))
    line, _ = sealed(tail.head, document_of(entry))
    return _write(folder, tail, line)


def mend(folder: Path, tail: Tail, at: datetime) -> Tail:
    """Put an entry that says so in the place of an unfinished line."""
    mended = MendedEntry(at=at, torn_bytes=len(tail.torn), torn_digest=digest_of(tail.torn))
    line, _ = sealed(tail.head, document_of(mended))
    return _write(folder, tail, line)


def _begin_segment(folder: Path, tail: Tail, opening: SegmentEntry) -> Tail:
    make_folder(folder, 0o700)
    line, _ = sealed(tail.head, document_of(opening))
    write_whole(segment_path(folder, opening.segment), line + _NEWLINE, 0o600)
    return Tail(segment=opening.segment, end=len(line) + 1, last=entry_after(tail.head, line))


def _write(folder: Path, tail: Tail, line: bytes) -> Tail:
    """Write a line where whole lines end: over what is torn, and nothing is left behind it."""
    content = line + _NEWLINE
    descriptor = os.open(segment_path(folder, tail.segment), os.O_WRONLY | os.O_CLOEXEC)
    try:
        done = 0
        while done < len(content):  # a file system with little room takes part of it
            count = os.pwrite(descriptor, content[done:], tail.end + done)
            if count == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            done += count
        os.ftruncate(descriptor, tail.end + len(content))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return Tail(segment=tail.segment, end=tail.end + len(content), last=entry_after(tail.head, line))


def _last_line(descriptor: int) -> tuple[bytes, bytes, int]:
    """The last whole line, what follows it, and where it ends; read backwards, block by block."""
    size = os.fstat(descriptor).st_size
    start, content = size, b""
    while start > 0 and content[: content.rfind(_NEWLINE)].count(_NEWLINE) == 0:
        length = min(_BLOCK_BYTES, start)
        start -= length
        content = os.pread(descriptor, length, start) + content
    whole, newline, torn = content.rpartition(_NEWLINE)
    if not newline:
        return b"", content, 0
    return whole.rpartition(_NEWLINE)[2], torn, size - len(torn)


def head_before(line: bytes) -> ChainHead:
    """The head that the entry in ``line`` says it follows.

    Raises:
        ChainBrokenError: It is no entry.
    """
    try:
        document = json.loads(line)
        return parse_head(f"{document[SEQUENCE_KEY] - 1}:{document[PREVIOUS_KEY]}")
    except (ValueError, TypeError, KeyError, RecursionError):
        raise ChainBrokenError(0, "expected a line of JSON with its number and the digest before it") from None

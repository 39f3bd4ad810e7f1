"""Reads the egress ledger and checks every link of its chain. It changes nothing, also while an agent writes."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from common.errors import InputInvalidError, Reason
from common.hash_chain import (
    EMPTY_CHAIN,
    ChainBrokenError,
    ChainHead,
    entries_of,
)
from site_agent.adapters.ledger import LEDGER_FOLDER, LOCK_FILE
from site_agent.adapters.ledger_segments import (
    OpenState,
    head_before,
    head_of,
    parse_entry,
    read_open,
    segments_of,
)
from site_agent.app.ledger_rows import LedgerRow, TensorSum, fold_row, message_row, tensor_sum
from site_agent.domain.ledger import (
    Delivery,
    FoldEntry,
    LedgerEntry,
    MendedEntry,
    MessageEntry,
    OutcomeEntry,
    SegmentEntry,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedLedger:
    """A ledger whose chain holds, as it was at one moment.

    Attributes:
        site: As the first file names it.
        start: The head before the first entry that is here; `EMPTY_CHAIN` when no segment was taken away.
        mended: How often a program was killed while it wrote.
        torn_bytes: Of an entry that was not finished; the next program mends it.
    """

    site: str
    segments: tuple[tuple[Path, int], ...]
    start: ChainHead
    head: ChainHead
    first_at: datetime | None
    last_at: datetime | None
    mended: int
    torn_bytes: int
    folds: tuple[FoldEntry, ...]
    deliveries: dict[int, Delivery]
    tensors: dict[int, TensorSum]

    def rows(self) -> Iterator[LedgerRow]:
        """Every message, oldest entry first, and the folds that are still open; read again from the disk."""
        for chained in entries_of(_lines(self.segments), self.start):
            match parse_entry(chained):
                case MessageEntry() as entry:
                    sequence = chained.head.sequence
                    tensors = self.tensors.get(entry.tensors_in or sequence, TensorSum())
                    yield message_row(sequence, entry, tensors, self.deliveries.get(sequence))
                case FoldEntry() as fold:
                    yield fold_row(chained.head.sequence, fold)
        for fold in self.folds:
            yield fold_row(0, fold)


def check_ledger(state_folder: Path, kept: ChainHead | None = None) -> CheckedLedger:
    """Read the whole ledger of a state folder.

    Args:
        state_folder: The site's.
        kept: A head that somebody wrote down, which the chain must pass through.

    Raises:
        InputInvalidError: LEDGER_BROKEN, with the first entry that does not follow, or the head that is missed.
    """
    folder = state_folder / LEDGER_FOLDER
    segments, state = _snapshot(folder)
    start = _start(segments)
    heads = {"the ledger's own note of its head": head_of(folder, state), "the head that was given": kept}
    missed = {what: head for what, head in heads.items() if head is not None and head != EMPTY_CHAIN}
    reading = _Reading()
    head = start
    try:
        for chained in entries_of(_lines(segments), start):
            head = chained.head
            reading.take(chained.head.sequence, parse_entry(chained))
            missed = {what: each for what, each in missed.items() if each != head}
    except ChainBrokenError as error:
        raise _broken(f"{folder}: {error}") from None
    for what, each in missed.items():
        raise _broken(f"{folder}: expected the chain to pass through {what}, {each}; it ends at {head}")
    return CheckedLedger(
        site=reading.site,
        segments=segments,
        start=start,
        head=head,
        first_at=reading.first_at,
        last_at=reading.last_at,
        mended=reading.mended,
        torn_bytes=_torn_bytes(segments),
        folds=state.folds,
        deliveries=reading.deliveries,
        tensors=reading.tensors,
    )


class _Reading:
    """What is gathered on the first way through."""

    def __init__(self) -> None:
        self.first_at: datetime | None = None
        self.last_at: datetime | None = None
        self.site = ""
        self.mended = 0
        self.deliveries: dict[int, Delivery] = {}
        self.tensors: dict[int, TensorSum] = {}

    def take(self, sequence: int, entry: LedgerEntry) -> None:
        at = entry.last_at if isinstance(entry, FoldEntry) else entry.at
        self.first_at, self.last_at = self.first_at or at, at
        match entry:
            case OutcomeEntry():
                self.deliveries[entry.of] = entry.delivery
            case MessageEntry() if entry.message.tensors:
                self.tensors[sequence] = tensor_sum(entry)
            case SegmentEntry():
                self.site = self.site or entry.site
            case MendedEntry():
                self.mended += 1


def _broken(problem: str) -> InputInvalidError:
    return InputInvalidError(Reason.LEDGER_BROKEN, problem)


def _snapshot(folder: Path) -> tuple[tuple[tuple[Path, int], ...], OpenState]:
    """The segments with their sizes, and the open folds, of one moment."""
    with _shared(folder / LOCK_FILE):
        return tuple((path, path.stat().st_size) for path in segments_of(folder)), read_open(folder)


@contextmanager
def _shared(lock: Path) -> Iterator[None]:
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # nobody has written yet
        yield
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _start(segments: tuple[tuple[Path, int], ...]) -> ChainHead:
    """Where the first segment that is here goes on from."""
    first = next(_lines(segments), None)
    if first is None:
        return EMPTY_CHAIN
    try:
        start = head_before(first)
    except ChainBrokenError as error:
        raise _broken(f"{segments[0][0]}: {error}") from None
    return EMPTY_CHAIN if start.sequence < 1 else start


def _lines(segments: tuple[tuple[Path, int], ...]) -> Iterator[bytes]:
    """The whole lines of all segments; an unfinished one at the very end belongs to no entry."""
    for path, size in segments:
        with path.open("rb") as file:
            while file.tell() < size:
                line = file.readline(size - file.tell())
                if line.endswith(b"\n"):
                    yield line[:-1]
                elif path != segments[-1][0]:
                    yield line  # which no entry is


def _torn_bytes(segments: tuple[tuple[Path, int], ...]) -> int:
    if not segments:
        return 0
    return segments[-1][1] - sum(len(line) + 1 for line in _lines(segments[-1:]))

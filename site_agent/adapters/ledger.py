"""The egress ledger as a file: a message is in it, durably, before it leaves; when it cannot be, nothing leaves.

Agent and commands write to one ledger: each record is made under a kernel lock, from what lies on the disk at that
moment. It sends nothing, and describes nothing: `recorded_channel` does.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from common.clock import Clock
from common.errors import FedMedError, OverloadedError, Reason
from common.files import make_folder
from common.hash_chain import ChainBrokenError
from site_agent.adapters.ledger_segments import (
    OpenState,
    Tail,
    append,
    head_of,
    make_durable,
    mend,
    parse_entry,
    read_open,
    read_tail,
    save_open,
)
from site_agent.domain.ledger import (
    FOLDED_RPCS,
    Delivery,
    FoldEntry,
    LedgerEntry,
    MessageEntry,
    Origin,
    Outcome,
    OutcomeEntry,
    OutgoingMessage,
    fold_of,
)

LEDGER_FOLDER = "ledger"
LOCK_FILE = "lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """What was recorded: the message, and its entry's number; 0 for one that was folded."""

    message: OutgoingMessage
    sequence: int = 0


class FileLedger:
    """The ledger in the state folder of a site, as one program writes to it."""

    def __init__(self, state_folder: Path, site: str, origin: Origin, clock: Clock) -> None:
        self._folder = state_folder / LEDGER_FOLDER
        self._site = site
        self._origin = origin
        self._clock = clock
        self._described: dict[str, int] = {}  # where this process has listed the tensors of a file

    def record(self, message: OutgoingMessage) -> Ticket:
        """Write down that ``message`` is about to leave; only then may it.

        Raises:
            OverloadedError: LEDGER_UNWRITABLE or LEDGER_BROKEN. The message must not be sent.
        """
        with self._written() as pages:
            if message.rpc in FOLDED_RPCS:
                pages.fold(message, self._origin)
                return Ticket(message=message)
            sequence = pages.add(self._entry(message))
        if message.tensors and message.file_digest not in self._described:
            self._described[message.file_digest] = sequence
        return Ticket(message=message, sequence=sequence)

    def settle(self, ticket: Ticket, delivery: Delivery) -> None:
        """Write down what became of it. When that fails, the ledger says of the message that it may have left."""
        with suppress(FedMedError), self._written() as pages:
            if ticket.sequence:
                pages.add(OutcomeEntry(at=self._clock.now(), of=ticket.sequence, delivery=delivery))
            elif delivery.outcome is Outcome.ANSWERED:
                pages.answered(ticket.message, self._origin)

    def _entry(self, message: OutgoingMessage) -> MessageEntry:
        """The tensors of a file are listed once; a stream that was broken and begun again refers to that."""
        listed_in = self._described.get(message.file_digest, 0) if message.tensors else 0
        kept = dataclasses.replace(message, tensors=()) if listed_in else message
        return MessageEntry(at=self._clock.now(), origin=self._origin, message=kept, tensors_in=listed_in)

    @contextmanager
    def _written(self) -> Iterator[_Pages]:
        """The ledger as it is now, in the hands of this process alone."""
        try:
            make_folder(self._folder, 0o700)
            descriptor = os.open(self._folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                yield _Pages.read(self._folder, self._site, self._clock)
            finally:
                os.close(descriptor)
        except OSError as error:
            message = f"{self._folder}: {error.strerror}; nothing leaves until it can be written"
            raise OverloadedError(Reason.LEDGER_UNWRITABLE, message) from None


@dataclass(slots=True)
class _Pages:
    """The ledger's end and its open folds, under the lock."""

    folder: Path
    site: str
    clock: Clock
    tail: Tail
    folds: tuple[FoldEntry, ...]

    @staticmethod
    def read(folder: Path, site: str, clock: Clock) -> _Pages:
        """What is there, mended where a program was killed, and with folds that are over in the chain."""
        kept, tail = read_open(folder), read_tail(folder)
        if head_of(folder, kept) != tail.head:
            make_durable(folder, kept, tail)
        pages = _Pages(folder, site, clock, tail, kept.folds)
        if tail.torn:
            pages.tail = mend(folder, tail, clock.now())
        pages._close_full_folds()
        return pages

    def add(self, entry: LedgerEntry) -> int:
        """Add ``entry`` to the chain; its number."""
        self.tail = append(self.folder, self.tail, entry, self.site, self.clock.now())
        self._save()
        return self.tail.head.sequence

    def fold(self, message: OutgoingMessage, origin: Origin) -> None:
        """Count ``message`` with those of its kind."""
        now = self.clock.now()
        mine = next((fold for fold in self.folds if fold.takes(message, origin)), None)
        grown = fold_of(message, origin, now) if mine is None else mine.with_one_more(message, now)
        self.folds = (*(fold for fold in self.folds if fold is not mine), grown)
        self._save()

    def answered(self, message: OutgoingMessage, origin: Origin) -> None:
        """One of that kind was answered; nothing when its fold is in the chain already."""
        self.folds = tuple(
            dataclasses.replace(fold, answered=fold.answered + 1) if fold.takes(message, origin) else fold
            for fold in self.folds
        )
        self._save()

    def _close_full_folds(self) -> None:
        for fold in [each for each in self.folds if each.is_full(self.clock.now())]:
            was_closed = self.tail.last is not None and _is_same(self.tail, fold)  # and then it was killed
            self.folds = tuple(each for each in self.folds if each is not fold)
            if was_closed:
                self._save()
            else:
                self.add(fold)

    def _save(self) -> None:
        head = str(self.tail.head) if self.tail.segment else ""
        save_open(self.folder, OpenState(head=head, folds=self.folds))


def _is_same(tail: Tail, fold: FoldEntry) -> bool:
    assert tail.last is not None
    try:
        return parse_entry(tail.last) == fold
    except ChainBrokenError:
        return False

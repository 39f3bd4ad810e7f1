"""The egress ledger for people: one row for each message or fold, with what became of it, and sums over rows.

Reads no file and writes none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from site_agent.domain.ledger import About, Delivery, FoldEntry, MessageEntry, Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerRow:
    """A message, or messages that were folded.

    Attributes:
        sequence: Number of its entry; 0 for a fold that is still open.
        count: Messages: of a stream all that were given to the network.
        size_bytes: Of all of them; of a stream whose end is not known, of its header and its whole file.
        first_digest: SHA-256 of the message, of a stream's header; of a fold, over its messages' digests.
        digest: The same, but of all messages of a stream, as far as it is known how many were sent.
        answered: How many are known to have arrived.
        reason: Why a message failed or was refused.
    """

    sequence: int
    first_at: datetime
    last_at: datetime
    origin: str
    rpc: str
    about: About
    fields: tuple[str, ...]
    count: int
    size_bytes: int
    first_digest: str
    digest: str
    outcome: str
    answered: int
    reason: str = ""
    file_digest: str = ""
    file_bytes: int = 0
    tensors: int = 0
    norm: float | None = None


UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSum:
    """The tensors of a file together; the norm is of all their numbers, None when one is no number."""

    count: int = 0
    norm: float | None = None


def tensor_sum(entry: MessageEntry) -> TensorSum:
    """The sum of the tensors that ``entry`` lists: norms add up by their squares."""
    norms = [tensor.norm for tensor in entry.message.tensors]
    finite = [norm for norm in norms if norm is not None]
    return TensorSum(count=len(norms), norm=math.hypot(*finite) if len(finite) == len(norms) else None)


def message_row(sequence: int, entry: MessageEntry, tensors: TensorSum, delivery: Delivery | None) -> LedgerRow:
    """The row of a message and of what became of it, None when that is not known."""
    message = entry.message
    is_stream = delivery is not None and bool(message.file_digest)
    return LedgerRow(
        sequence=sequence,
        first_at=entry.at,
        last_at=entry.at,
        origin=entry.origin,
        rpc=message.rpc,
        about=message.about,
        fields=message.fields,
        count=delivery.sent_messages if delivery is not None else 1,
        size_bytes=delivery.sent_bytes if delivery is not None else message.size_bytes + message.file_bytes,
        first_digest=message.digest,
        digest=delivery.sent_digest if is_stream and delivery is not None else message.digest,
        outcome=UNKNOWN if delivery is None else delivery.outcome,
        answered=int(delivery is not None and delivery.outcome is Outcome.ANSWERED),
        reason="" if delivery is None else delivery.reason,
        file_digest=message.file_digest,
        file_bytes=message.file_bytes,
        tensors=tensors.count,
        norm=tensors.norm,
    )


def fold_row(sequence: int, fold: FoldEntry) -> LedgerRow:
    """The row of messages that were folded."""
    return LedgerRow(
        sequence=sequence,
        first_at=fold.first_at,
        last_at=fold.last_at,
        origin=fold.origin,
        rpc=fold.rpc,
        about=fold.about,
        fields=fold.fields,
        count=fold.count,
        size_bytes=fold.size_bytes,
        first_digest=fold.digest,
        digest=fold.digest,
        outcome=Outcome.ANSWERED if fold.answered == fold.count else UNKNOWN,
        answered=fold.answered,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which rows are wanted: of one run, and of a time; empty for all."""

    run: str = ""
    since: datetime | None = None
    until: datetime | None = None

    def takes(self, row: LedgerRow) -> bool:
        """Whether ``row`` is wanted; one that began before ``until`` and ended after ``since`` is."""
        is_of_run = not self.run or row.about.run == self.run
        is_late_enough = self.since is None or row.last_at >= self.since
        return is_of_run and is_late_enough and (self.until is None or row.first_at < self.until)


@dataclass(slots=True)
class Sum:
    """Rows together."""

    messages: int = 0
    size_bytes: int = 0
    unknown: int = 0
    fields: set[str] = field(default_factory=set)
    files: set[str] = field(default_factory=set)
    tensors: int = 0  # of all files, each counted once

    def add(self, row: LedgerRow) -> None:
        """And ``row``."""
        self.messages += row.count
        self.size_bytes += row.size_bytes
        self.unknown += row.count - row.answered if row.outcome != Outcome.ANSWERED else 0
        self.fields |= set(row.fields)
        self.tensors += row.tensors if row.file_digest not in self.files else 0
        self.files |= {row.file_digest} - {""}


def sums_by_rpc(rows: Iterable[LedgerRow]) -> dict[str, Sum]:
    """One sum for each rpc, sorted by name."""
    sums: dict[str, Sum] = {}
    for row in rows:
        sums.setdefault(row.rpc, Sum()).add(row)
    return dict(sorted(sums.items()))


def sums_by_round(rows: Iterable[LedgerRow]) -> dict[tuple[str, int], Sum]:
    """One sum for each run and round, sorted; what belongs to no round is not in it."""
    sums: dict[tuple[str, int], Sum] = {}
    for row in rows:
        if row.about.round_number is not None:
            sums.setdefault((row.about.run, row.about.round_number), Sum()).add(row)
    return dict(sorted(sums.items()))

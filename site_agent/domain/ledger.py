"""What the egress ledger says: every message that leaves the site, as entries. It writes nothing and asks no clock.

A message's entry is stored before the message is sent, and says what was in it by kind: names of fields, names and
norms of tensors, and no value. What became of it is an entry of its own. Messages that come all day and say the same
(polls, progress, health) are folded: one entry counts up to an hour of them.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal

from common.ids import Digest, digest_of

# An hour of polls in one entry: some hundred entries a day, whatever the coordinator's hold.
FOLD_SPAN = timedelta(hours=1)
FOLDED_RPCS = frozenset({"AwaitAssignment", "ReportProgress", "Check"})


class Origin(StrEnum):
    """Which program sent it: the agent, or a command that somebody typed."""

    AGENT = "agent"
    COMMAND = "command"


class Outcome(StrEnum):
    """What is known of a message that was recorded. Without an outcome nothing is: it may have left or not."""

    ANSWERED = "answered"  # it arrived: the coordinator answered, or refused with a reason of its own
    FAILED = "failed"  # no answer came: it may have arrived
    CANCELLED = "cancelled"  # the agent stopped waiting: it may have arrived


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a message belongs to, as far as it does.

    Attributes:
        run: The run's name, or the id where the name is not known.
        round_number: 0 for INITIALISE.
    """

    run: str = ""
    round_number: int | None = None
    assignment_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorNorm:
    """One tensor of a file that leaves, with its Frobenius norm; NaN and infinity as None."""

    name: str
    shape: tuple[int, ...]
    norm: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OutgoingMessage:
    """A message that is about to leave; of a stream the first one, its header.

    Attributes:
        rpc: The method's name.
        size_bytes: Of the message as protobuf writes it.
        digest: SHA-256 of these bytes.
        fields: Dotted names of the fields that are set, sorted.
        file_digest: Of the file that the stream will bring; empty without one.
        file_bytes: The size of that file.
        tensors: What is in it.
    """

    rpc: str
    size_bytes: int
    digest: Digest
    fields: tuple[str, ...]
    about: About
    file_digest: str = ""
    file_bytes: int = 0
    tensors: tuple[TensorNorm, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """What became of a message, or of the stream that it began.

    Attributes:
        reason: Why it failed or was refused; empty when it was taken.
        sent_messages: So many were given to the network, a stream's header included.
        sent_bytes: Of all of them.
        sent_digest: SHA-256 of these bytes, one message after the other.
    """

    outcome: Outcome
    reason: str = ""
    sent_messages: int
    sent_bytes: int
    sent_digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentEntry:
    """The first line of each file of the ledger."""

    kind: Literal["segment"] = "segment"
    at: datetime
    segment: int
    site: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageEntry:
    """A message that was about to leave at ``at``.

    Attributes:
        tensors_in: Number of the entry that lists the tensors of the same file; 0 when this one does.
    """

    kind: Literal["message"] = "message"
    at: datetime
    origin: Origin
    message: OutgoingMessage
    tensors_in: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class OutcomeEntry:
    """What became of the message of entry number ``of``."""

    kind: Literal["outcome"] = "outcome"
    at: datetime
    of: int
    delivery: Delivery


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldEntry:
    """Messages of one kind, counted. The last one may not have left, if the program was killed just then.

    Attributes:
        size_bytes: Of all of them.
        digest: SHA-256 over the digest so far and the next message's, message after message.
        answered: How many are known to have been answered; at least so many were.
    """

    kind: Literal["fold"] = "fold"
    first_at: datetime
    last_at: datetime
    origin: Origin
    rpc: str
    fields: tuple[str, ...]
    about: About
    count: int
    size_bytes: int
    digest: Digest
    answered: int = 0

    def takes(self, message: OutgoingMessage, origin: Origin) -> bool:
        """Whether ``message`` is one more of the same kind."""
        mine = (self.rpc, self.fields, self.about, self.origin)
        return mine == (message.rpc, message.fields, message.about, origin)

    def with_one_more(self, message: OutgoingMessage, at: datetime) -> FoldEntry:
        """This and ``message``."""
        return dataclasses.replace(
            self,
            last_at=max(at, self.last_at),
            count=self.count + 1,
            size_bytes=self.size_bytes + message.size_bytes,
            digest=digest_of(f"{self.digest}{message.digest}".encode()),
        )

    def is_full(self, now: datetime) -> bool:
        """Whether it has spanned its hour, or the clock was set back."""
        return not timedelta(0) <= now - self.first_at < FOLD_SPAN


@dataclass(frozen=True, slots=True, kw_only=True)
class MendedEntry:
    """The program was killed while it wrote the entry before: its message did not leave.

    Attributes:
        torn_bytes: Of the unfinished line, which this entry took the place of.
        torn_digest: SHA-256 of them.
    """

    kind: Literal["mended"] = "mended"
    at: datetime
    torn_bytes: int
    torn_digest: Digest


LedgerEntry = SegmentEntry | MessageEntry | OutcomeEntry | FoldEntry | MendedEntry


def fold_of(message: OutgoingMessage, origin: Origin, at: datetime) -> FoldEntry:
    """A fold of one message."""
    return FoldEntry(
        first_at=at,
        last_at=at,
        origin=origin,
        rpc=message.rpc,
        fields=message.fields,
        about=message.about,
        count=1,
        size_bytes=message.size_bytes,
        digest=message.digest,
    )

"""The audit log in the store's database: lines of a hash chain, added in the transaction of what they tell of.

It only adds. A line that was written stays as it is: whoever changes one, or takes one out, breaks the chain behind it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import TypeAdapter
from sqlalchemy import Connection, insert, select

from common.hash_chain import EMPTY_CHAIN, ChainHead, sealed
from common.ids import digest_of
from coordinator.adapters.storage.tables import AUDIT
from coordinator.domain.audit import AuditEvent

_EVENT = TypeAdapter(AuditEvent)


def append(connection: Connection, events: Sequence[AuditEvent]) -> None:
    """Add ``events``, in their order; of the one writer, in its transaction."""
    if not events:
        return
    head = head_of(connection)
    for event in events:
        line, head = sealed(head, document_of(event))
        connection.execute(insert(AUDIT).values(sequence=head.sequence, line=line.decode()))


def head_of(connection: Connection) -> ChainHead:
    """Where the log ends."""
    row = connection.execute(select(AUDIT).order_by(AUDIT.c.sequence.desc()).limit(1)).first()
    return EMPTY_CHAIN if row is None else ChainHead(sequence=row.sequence, digest=digest_of(row.line.encode()))


def lines_after(connection: Connection, sequence: int, at_most: int) -> tuple[bytes, ...]:
    """At most so many lines behind the one with that number."""
    wanted = select(AUDIT.c.line).where(AUDIT.c.sequence > sequence).order_by(AUDIT.c.sequence).limit(at_most)
    return tuple(row.line.encode() for row in connection.execute(wanted))


def document_of(event: AuditEvent) -> Mapping[str, object]:
    """The event as JSON has it: what it does not say is left out; times are UTC."""
    document: Mapping[str, object] = _EVENT.dump_python(event, mode="json", exclude_none=True)
    return document

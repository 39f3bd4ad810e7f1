"""The egress ledger as a table for other programs (CSV, RFC 4180). It checks nothing: what it is given was checked."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from typing import TextIO

from site_agent.app.ledger_rows import LedgerRow

_COLUMNS: dict[str, Callable[[LedgerRow], object]] = {
    "entry": lambda row: row.sequence or "open",
    "first_at": lambda row: row.first_at.isoformat(),
    "last_at": lambda row: row.last_at.isoformat(),
    "origin": lambda row: row.origin,
    "rpc": lambda row: row.rpc,
    "run": lambda row: row.about.run,
    "round": lambda row: "" if row.about.round_number is None else row.about.round_number,
    "assignment": lambda row: row.about.assignment_id,
    "messages": lambda row: row.count,
    "bytes": lambda row: row.size_bytes,
    "digest": lambda row: row.digest,
    "outcome": lambda row: row.outcome,
    "answered": lambda row: row.answered,
    "reason": lambda row: row.reason,
    "fields": lambda row: " ".join(row.fields),
    "file_digest": lambda row: row.file_digest,
    "file_bytes": lambda row: row.file_bytes or "",
    "tensors": lambda row: row.tensors or "",
    "norm": lambda row: "" if row.norm is None else row.norm,
}


def write_csv(rows: Iterable[LedgerRow], file: TextIO) -> int:
    """Write one line for each row, after a line of names; how many there were.

    A cell that a spreadsheet would take for a formula gets an apostrophe: a run's name comes from outside.
    """
    writer = csv.writer(file)
    writer.writerow(_COLUMNS)
    count = 0
    for row in rows:
        writer.writerow([_harmless(value(row)) for value in _COLUMNS.values()])
        count += 1
    return count


def _harmless(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell

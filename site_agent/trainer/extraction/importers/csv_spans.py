"""CSV with offsets: a header, and one entity a row. Columns may be parted by commas, semicolons or tabs.

Columns: ``document``, ``text``, ``start``, ``end``, ``type``; and where there are, ``words`` and ``patient``. The text
stands in the first row of a document at least. A row without start, end and type is for a document without entities.
Documents with a value in any other column are counted by its name.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from site_agent.trainer.extraction.importers.labels import Wording, is_label, shown
from site_agent.trainer.extraction.importers.placing import Placed, place
from site_agent.trainer.extraction.importers.source import (
    MAX_TEXT_CHARACTERS,
    MalformedError,
    Outcome,
    Problem,
    SourceDocument,
    SourceEntity,
    Unit,
    decoded,
    expect,
    expect_room,
    expect_text,
)

_REQUIRED = ("document", "text", "start", "end", "type")
_KNOWN = (*_REQUIRED, "words", "patient")
_DELIMITERS = (",", ";", "\t")
_MAX_DIGITS = 10
# The module's own limit, one for the whole process, is shorter than a note.
csv.field_size_limit(MAX_TEXT_CHARACTERS)


@dataclass(slots=True)
class _Rows:
    """What the rows of one document say."""

    text: str
    patient: str | None
    found: list[Placed] = field(default_factory=list)
    unread: set[str] = field(default_factory=set, repr=False)
    problem: MalformedError | None = None


def read_csv(unit: Unit) -> Iterator[Outcome]:
    """The documents of a file, in the order of their first rows."""
    documents: dict[str, _Rows] = {}
    try:
        lines = _lines(decoded(unit.content, unit.name), unit.name)
        columns = _columns(lines, unit.name)
        for where, row in lines:
            if any(row):
                expect(len(row) == len(columns), where, f"expected {len(columns)} values, got {len(row)}")
                rows = _add(documents, dict(zip(columns, row, strict=True)), where)
                rows.unread |= {name for name, value in zip(columns, row, strict=True) if value and name not in _KNOWN}
    except MalformedError as error:
        yield error.problem
        return
    found = [(_outcome(each, rows), rows.unread) for each, rows in documents.items()]
    told = _told(columns, [each for each, _ in found if isinstance(each, SourceDocument)], unit.name)
    for each, unread in found:
        left_out = {f"documents with a column that is not read, {told[column]}": 1 for column in unread}
        yield replace(each, left_out=left_out) if isinstance(each, SourceDocument) else each


def _outcome(document_id: str, rows: _Rows) -> SourceDocument | Problem:
    try:
        if rows.problem is not None:
            raise rows.problem
        entities = place(rows.text, rows.found)
    except MalformedError as error:
        return error.problem
    return SourceDocument(id=document_id, text=rows.text, entities=entities, patient=rows.patient)


def _told(columns: Sequence[str], documents: Sequence[SourceDocument], name: str) -> dict[str, str]:
    """What messages call each column that is not read: its name, if that is a label and no words of a document."""
    unread = [column for column in columns if column not in _KNOWN]
    wordings = [Wording(each) for each in documents] if unread else []
    told = {}
    for column in unread:
        is_text = not is_label(column) or any(each.says(column, alone=False) for each in wordings)
        told[column] = shown((column, 0), name if is_text else "")
    return told


def _lines(content: str, name: str) -> Iterator[tuple[str, list[str]]]:
    """Each row with where it stands, the header among them."""
    header = content.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=header.count)
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    try:
        for number, row in enumerate(reader, start=1):
            yield f"{name}, row {number}", row
    except csv.Error:
        where = f"{name}, line {reader.line_num}"
    else:
        return
    raise MalformedError(where, f"expected CSV with values of at most {MAX_TEXT_CHARACTERS} characters, got other text")


def _columns(lines: Iterator[tuple[str, list[str]]], name: str) -> list[str]:
    """The names in the header, and a number for each that is blank, which may be another's name.

    One that stands twice is refused: of two values the first would be lost.
    """
    where, header = next(lines, (f"{name}, row 1", []))
    columns = [column.strip() for column in header]
    missing = [column for column in _REQUIRED if column not in columns]
    expect(not missing, where, f"expected the column {missing[0] if missing else ''}, got others")
    first: dict[str, int] = {}
    for number, column in enumerate(columns, start=1):
        earlier = first.setdefault(column, number) if column else number
        expect(earlier == number, where, f"expected every column once, got columns {earlier} and {number} of one name")
    return [column or f"column {number}" for number, column in enumerate(columns, start=1)]


def _add(documents: dict[str, _Rows], row: Mapping[str, str], where: str) -> _Rows:
    """Add one row to its document, which is returned; what is wrong with it is that document's problem alone."""
    expect(bool(row["document"]), where, "document: expected a value, got none")
    rows = documents.setdefault(row["document"], _Rows(text=row["text"], patient=row.get("patient") or None))
    try:
        expect(row["text"] in ("", rows.text), where, "text: expected that of the document's first row, or none")
        expect_text(rows.text, where)
        expect((row.get("patient") or rows.patient) == rows.patient, where, "patient: expected one a document, got two")
        if row["start"] or row["end"] or row["type"]:
            expect_room(len(rows.found), where)
            rows.found.append(_entity(row, f"T{len(rows.found) + 1}", where))
    except MalformedError as error:
        rows.problem = rows.problem or error
    return rows


def _entity(row: Mapping[str, str], entity_id: str, where: str) -> Placed:
    start, end = (_offset(row, column, where) for column in ("start", "end"))
    expect(bool(row["type"].strip()), where, "type: expected a value, got none")
    entity = SourceEntity(id=entity_id, type=row["type"].strip(), start=0, end=0)
    return Placed(entity=entity, stretches=((start, end),), words=row.get("words") or None, where=where)


def _offset(row: Mapping[str, str], column: str, where: str) -> int:
    digits = row[column].strip()
    is_offset = digits.isascii() and digits.isdigit() and len(digits) <= _MAX_DIGITS
    expect(is_offset, where, f"{column}: expected an offset, got another string")
    return int(digits)

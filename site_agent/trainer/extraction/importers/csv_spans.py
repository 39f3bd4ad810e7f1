"""CSV with offsets: a header, and one entity a row. Columns may be parted by commas, semicolons or tabs.

Columns: ``document``, ``text``, ``start``, ``end``, ``type``; and where there are, ``words`` and ``patient``. The text
stands in the first row of a document at least. A row without start, end and type is for a document without entities.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from site_agent.trainer.extraction.importers.placing import Placed, place
from site_agent.trainer.extraction.importers.source import (
    MAX_TEXT_CHARACTERS,
    MalformedError,
    Outcome,
    SourceDocument,
    SourceEntity,
    Unit,
    decoded,
    expect,
    expect_room,
    expect_text,
)

_REQUIRED = ("document", "text", "start", "end", "type")
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
    problem: MalformedError | None = None


def read_csv(unit: Unit) -> Iterator[Outcome]:
    """The documents of a file, in the order of their first rows."""
    documents: dict[str, _Rows] = {}
    try:
        content = decoded(unit.content, unit.name)
        for where, row in _rows(content, unit.name):
            _add(documents, row, where)
    except MalformedError as error:
        yield error.problem
        return
    for document_id, rows in documents.items():
        try:
            if rows.problem is not None:
                raise rows.problem
            entities = place(rows.text, rows.found)
        except MalformedError as error:
            yield error.problem
            continue
        yield SourceDocument(id=document_id, text=rows.text, entities=entities, patient=rows.patient)


def _rows(content: str, name: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Each row by its columns' names, with where it stands."""
    header = content.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=header.count)
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = [column.strip() for column in next(reader, [])]
        missing = [column for column in _REQUIRED if column not in columns]
        expect(not missing, f"{name}, row 1", f"expected the column {missing[0] if missing else ''}, got others")
        for number, row in enumerate(reader, start=2):
            where = f"{name}, row {number}"
            if any(row):
                expect(len(row) == len(columns), where, f"expected {len(columns)} values, got {len(row)}")
                yield where, dict(zip(columns, row, strict=True))
    except csv.Error:
        where = f"{name}, line {reader.line_num}"
    else:
        return
    raise MalformedError(where, f"expected CSV with values of at most {MAX_TEXT_CHARACTERS} characters, got other text")


def _add(documents: dict[str, _Rows], row: Mapping[str, str], where: str) -> None:
    """Add one row to its document; what is wrong with it is that document's problem alone."""
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

"""CoNLL columns: a token a line, its tag in the last column, a blank line after each sentence.

The text is built from the tokens: one space between two, a line end after each sentence. It is not the note's own,
because the format does not keep that. ``-DOCSTART-`` parts documents; ``# document = ID`` and ``# patient = ID`` before
the first token name them. Other comments of the form ``# name = value`` are left out and counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from site_agent.trainer.extraction.importers.source import (
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

_NAMED = re.compile(r"#\s*(document|newdoc id|patient)\s*=\s*(\S+)\s*")
# As in CoNLL-U. A tab makes it a token, and so does a name that touches the number sign or the equals sign.
_COMMENT = re.compile(r"# +([^\s=]+(?: [^\s=]+){0,2}) +=(?: [^\t]*)?\r?")
_TAG = re.compile(r"([BIESLUM])-(\S+)")
_BEGINS, _ENDS = frozenset("BSU"), frozenset("ESLU")
_NEW_DOCUMENT = "-DOCSTART-"
_KNOWN = ("document", "newdoc id", "patient")
COMMENTS = "comments with a name and a value"
BEGUN_INSIDE = "entities that begin with an inside tag"


@dataclass(slots=True)
class _Building:
    """One document while its lines are read; offsets are those of the text built so far."""

    id: str
    patient: str | None = None
    parts: list[str] = field(default_factory=list)
    length: int = 0
    entities: list[SourceEntity] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    problem: Problem | None = None
    open: tuple[str, int, int] | None = None

    def add_token(self, word: str, tag: str, where: str) -> None:
        """Add a token and what its tag says."""
        match = _TAG.fullmatch(tag)
        expect(tag == "O" or match is not None, where, "expected O or a tag such as B-type in the last column")
        self._add_text(" " if self.parts and self.parts[-1] != "\n" else "")
        start, end = self.length, self.length + len(word)
        self._add_text(word)
        prefix, kind = match.groups() if match else ("O", "")
        if self.open is not None and (prefix in _BEGINS or kind != self.open[0]):
            self.close(where)
        if match is None:
            return
        self.left_out[BEGUN_INSIDE] += self.open is None and prefix not in _BEGINS
        self.open = (kind, start if self.open is None else self.open[1], end)
        if prefix in _ENDS:
            self.close(where)

    def end_sentence(self, where: str) -> None:
        """An entity ends with its sentence."""
        self.close(where)
        if self.parts and self.parts[-1] != "\n":
            self._add_text("\n")

    def close(self, where: str) -> None:
        """End the entity that is open, if there is one."""
        if self.open is not None:
            expect_room(len(self.entities), where)
            kind, start, end = self.open
            self.entities.append(SourceEntity(id=f"T{len(self.entities) + 1}", type=kind, start=start, end=end))
            self.open = None

    def outcome(self, where: str) -> Outcome | None:
        """The document or its problem; None of one without a token."""
        try:
            self.close(where)
            text = expect_text("".join(self.parts).removesuffix("\n"), where)
        except MalformedError as error:
            self.problem = self.problem or error.problem
            text = ""
        if self.problem is not None:
            return self.problem
        return (
            SourceDocument(
                id=self.id, text=text, entities=tuple(self.entities), patient=self.patient, left_out=self.left_out
            )
            if text
            else None
        )

    def _add_text(self, text: str) -> None:
        if text:
            self.parts.append(text)
            self.length += len(text)


def read_conll(unit: Unit) -> Iterator[Outcome]:
    """The documents of a file."""
    try:
        content = decoded(unit.content, unit.name)
    except MalformedError as error:
        yield error.problem
        return
    number, where = 1, unit.name
    building = _Building(f"{unit.stem}-{number}")
    for line_number, line in enumerate(content.split("\n"), start=1):
        where = f"{unit.name}, line {line_number}"
        named = _NAMED.fullmatch(line)
        if line.startswith(_NEW_DOCUMENT) or (named and named[1] != "patient"):
            outcome, left_out = building.outcome(where), building.left_out
            if outcome is not None:
                yield outcome
                number, left_out = number + 1, Counter()
            building = _Building(named[2] if named else f"{unit.stem}-{number}", left_out=left_out)
        elif named:
            building.patient = named[2]
        elif building.problem is None:
            try:
                _add_line(building, line, where)
            except MalformedError as error:
                building.problem = error.problem
    outcome = building.outcome(where)
    if outcome is not None:
        yield outcome


def _add_line(building: _Building, line: str, where: str) -> None:
    comment = _COMMENT.fullmatch(line)
    if comment is not None:
        expect(comment[1] not in _KNOWN, where, "expected an id without white space after the equals sign, got another")
        building.left_out[COMMENTS] += 1
        return
    columns = [column.strip() for column in (line.split("\t") if "\t" in line else line.split())]
    if not any(columns):
        building.end_sentence(where)
        return
    is_token = len(columns) >= 2 and bool(columns[0])
    expect(is_token, where, f"expected a token and its tag, got {len(columns)} columns or no token")
    building.add_token(columns[0], columns[-1], where)

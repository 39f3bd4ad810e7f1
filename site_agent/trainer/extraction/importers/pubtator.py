"""PubTator: abstracts as ``id|t|title`` and ``id|a|abstract``, then a line for each mention and each relation.

The text is title, line end, abstract, as the format's offsets count. Relations are between concepts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from site_agent.trainer.extraction.importers.placing import Placed, place
from site_agent.trainer.extraction.importers.source import (
    MalformedError,
    Outcome,
    SourceDocument,
    SourceEntity,
    SourceRelation,
    Unit,
    decoded,
    expect,
    expect_room,
    expect_text,
)

_TEXT = re.compile(r"([^|\t]+)\|([ta])\|(.*)", re.DOTALL)
_OFFSET = re.compile(r"\d{1,10}", re.ASCII)
_CONCEPTS = re.compile(r"[|;,]")
_NO_CONCEPT = frozenset({"", "-", "-1"})

NumberedLines = Sequence[tuple[int, str]]


def read_pubtator(unit: Unit) -> Iterator[Outcome]:
    """The abstracts of a file; blank lines part them."""
    try:
        content = decoded(unit.content, unit.name)
    except MalformedError as error:
        yield error.problem
        return
    for block in _blocks(content):
        try:
            yield _document(block, unit.name)
        except MalformedError as error:
            yield error.problem


def _blocks(content: str) -> Iterator[NumberedLines]:
    block: list[tuple[int, str]] = []
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            block.append((number, line.removesuffix("\r")))
        elif block:
            yield block
            block = []
    if block:
        yield block


def _document(block: NumberedLines, name: str) -> SourceDocument:
    document_id, text, rest = _text(block, name)
    found: list[Placed] = []
    relations: list[SourceRelation] = []
    for number, line in rest:
        where = f"{name}, line {number}"
        fields = line.split("\t")
        expect(fields[0] == document_id, where, "expected the id of the abstract above, got another")
        if len(fields) >= 5 and _OFFSET.fullmatch(fields[1]) and _OFFSET.fullmatch(fields[2]):
            expect_room(len(found), where)
            found.append(_mention(fields, f"T{len(found) + 1}", where))
        else:
            relations.append(_relation(fields, where))
    return SourceDocument(
        id=document_id, text=text, entities=place(text, found, in_lines=True), concept_relations=tuple(relations)
    )


def _text(block: NumberedLines, name: str) -> tuple[str, str, NumberedLines]:
    """The abstract's id, its text, and the lines after it."""
    sections: dict[str, str] = {}
    document_id = ""
    for place_in_block, (number, line) in enumerate(block):
        match = _TEXT.fullmatch(line)
        if match is None:
            rest = block[place_in_block:]
            break
        where = f"{name}, line {number}"
        expect(not sections or match[1] == document_id, where, "expected the id of the title above, got another")
        expect(match[2] not in sections, where, "expected one title and one abstract, got another one")
        document_id, sections[match[2]] = match[1], match[3]
    else:
        rest = ()
    expect("t" in sections, f"{name}, line {block[0][0]}", "expected id|t|title, got another line")
    text = "\n".join(sections[section] for section in ("t", "a") if section in sections)
    return document_id, expect_text(text, name), rest


def _mention(fields: list[str], entity_id: str, where: str) -> Placed:
    _, start, end, words, kind, *more = fields
    expect(bool(kind.strip()), where, "expected a type in column 5, got none")
    concepts = frozenset(_CONCEPTS.split(more[0].strip()) if more else ()) - _NO_CONCEPT
    entity = SourceEntity(id=entity_id, type=kind.strip(), start=0, end=0, concepts=concepts)
    return Placed(entity=entity, stretches=((int(start), int(end)),), words=words, where=where)


def _relation(fields: list[str], where: str) -> SourceRelation:
    named = len(fields) >= 4 and bool(fields[1].strip()) and not fields[1].isdigit()
    expect(
        named, where, "expected id, start, end, mention and type, or id, relation and two concepts; got another line"
    )
    return SourceRelation(type=fields[1].strip(), head=fields[2].strip(), tail=fields[3].strip())

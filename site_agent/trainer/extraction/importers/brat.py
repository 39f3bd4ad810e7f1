"""BRAT standoff (brat.nlplab.org/standoff.html): a text, and beside it a file of annotations, one a line.

T lines are entities, R lines relations, from Arg1 to Arg2 wherever these stand in the line; an event (E) is its
trigger, with a relation for each role; A and M lines are attributes. Equivalences (*), normalisations (N) and comments
(#) are left out and counted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

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

_ENTITY = re.compile(r"(T\S+)\t(\S+) (\d{1,10} \d{1,10}(?:;\d{1,10} \d{1,10})*)\t(.*)", re.ASCII)
_RELATION = re.compile(r"R\S+\t(\S+) ([^\s:]+):(\S+) ([^\s:]+):(\S+)\s*", re.ASCII)
_EVENT = re.compile(r"(E\S+)\t[^\s:]+:(\S+)((?: [^\s:]+:\S+)*)\s*", re.ASCII)
_ATTRIBUTE = re.compile(r"[AM]\S+\t(\S+) (\S+)(?: (\S.*?))?\s*")
_NUMBERED_ROLE = re.compile(r"\d+\Z")
_LEFT_OUT = {"*": "equivalences", "N": "normalisations", "#": "comments"}
_KINDS = {"T": _ENTITY, "R": _RELATION, "E": _EVENT, "A": _ATTRIBUTE, "M": _ATTRIBUTE}


@dataclass(slots=True)
class Standoff:
    """The lines of one file of annotations, sorted by kind; references are not yet resolved."""

    entities: dict[str, Placed] = field(default_factory=dict)
    triggers: dict[str, tuple[str, str]] = field(default_factory=dict)
    relations: list[tuple[str, SourceRelation]] = field(default_factory=list)
    attributes: list[tuple[str, str, tuple[str, str]]] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def add_line(self, line: str, where: str) -> None:
        """Sort one line in.

        Raises:
            MalformedError: it is none of BRAT's.
        """
        if line[0] in _LEFT_OUT:
            self.left_out[_LEFT_OUT[line[0]]] += 1
            return
        kind = _KINDS.get(line[0])
        match = kind.fullmatch(line) if kind else None
        if match is None:
            raise MalformedError(where, "expected a line of BRAT standoff (T, R, E, A, M, N, * or #), got another")
        parts = [part or "" for part in match.groups()]
        {"T": self._entity, "R": self._relation, "E": self._event}.get(line[0], self._attribute)(parts, where)

    def _entity(self, parts: list[str], where: str) -> None:
        entity_id, kind, offsets, words = parts
        expect(entity_id not in self.entities, where, "expected every id once, got one repeated")
        expect_room(len(self.entities), where)
        stretches = tuple((int(start), int(end)) for start, end in (each.split() for each in offsets.split(";")))
        entity = SourceEntity(id=entity_id, type=kind, start=0, end=0)
        self.entities[entity_id] = Placed(entity=entity, stretches=stretches, words=words, where=where)

    def _relation(self, parts: list[str], where: str) -> None:
        kind, first, head, second, tail = parts
        if (first.lower(), second.lower()) == ("arg2", "arg1"):
            head, tail = tail, head
        self.relations.append((where, SourceRelation(type=kind, head=head, tail=tail)))

    def _event(self, parts: list[str], where: str) -> None:
        event_id, trigger, roles = parts
        expect(event_id not in self.triggers, where, "expected every id once, got one repeated")
        self.triggers[event_id] = (where, trigger)
        for role in roles.split():
            name, _, argument = role.partition(":")
            relation = SourceRelation(type=_NUMBERED_ROLE.sub("", name) or name, head=event_id, tail=argument)
            self.relations.append((where, relation))

    def _attribute(self, parts: list[str], where: str) -> None:
        name, target, value = parts
        self.attributes.append((where, target, (name, value)))

    def target(self, reference: str, where: str) -> str:
        """The id of the entity that a reference names; an event stands for its trigger.

        Raises:
            MalformedError: there is none.
        """
        _, entity_id = self.triggers.get(reference, (where, reference))
        expect(entity_id in self.entities, where, "expected the id of an entity or event of this file, got another")
        return entity_id

    def document(self, document_id: str, text: str) -> SourceDocument:
        """The annotated document.

        Raises:
            MalformedError: a reference names nothing, or an entity does not stand where it should.
        """
        attributes: dict[str, list[tuple[str, str]]] = {}
        for where, reference, attribute in self.attributes:
            if reference[:1] == "R":
                self.left_out["attributes of relations"] += 1
                continue
            attributes.setdefault(self.target(reference, where), []).append(attribute)
        for where, trigger in self.triggers.values():
            self.target(trigger, where)
        entities = place(text, tuple(self.entities.values()), in_lines=True)
        return SourceDocument(
            id=document_id,
            text=text,
            entities=tuple(replace(one, attributes=tuple(attributes.get(one.id, ()))) for one in entities),
            relations=tuple(
                replace(one, head=self.target(one.head, where), tail=self.target(one.tail, where))
                for where, one in self.relations
            ),
            left_out=self.left_out,
        )


def read_standoff(document_id: str, text: str, annotations: str, name: str) -> SourceDocument:
    """The document of a text and its annotations; ``name`` stands for the latter in messages.

    Raises:
        MalformedError: anything is wrong with it.
    """
    expect_text(text, name)
    standoff = Standoff()
    for number, line in enumerate(annotations.split("\n"), start=1):
        if line.strip():
            standoff.add_line(line.removesuffix("\r"), f"{name}, line {number}")
    return standoff.document(document_id, text)


def read_brat(unit: Unit) -> Iterator[Outcome]:
    """The one document of a unit: its text, and its annotations beside it."""
    try:
        text = unit.content.decode()  # a byte order mark stays: offsets may count it
    except UnicodeDecodeError as error:
        text, position = None, error.start + 1
    if text is None:
        yield MalformedError(unit.name, f"expected UTF-8, got something else at byte {position}").problem
        return
    name = f"{unit.stem}.ann"
    try:
        yield read_standoff(unit.stem, text, decoded(unit.annotations, name), name)
    except MalformedError as error:
        yield error.problem

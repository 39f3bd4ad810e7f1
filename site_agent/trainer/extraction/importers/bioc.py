"""BioC in JSON: collections of documents with passages, sentences, annotations and relations.

The document's text is its passages (or their sentences), a line end between two. Relations of two annotations are
relations; those that name concepts in two infons instead (as in BioCreative V) are between concepts. Their ends are in
the order of the file, unless their roles say otherwise.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from site_agent.trainer.extraction.importers.json_values import JsonValue, parse_json
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

_CONCEPTS = re.compile(r"[|;,]")
_TYPE_INFONS = ("type", "relation")
# Roles of two ends that stand in the file with the tail first.
_TURNED_ROLES = (("tail", "head"), ("arg2", "arg1"), ("object", "subject"))


@dataclass(slots=True)
class _Piece:
    """A passage or sentence with a text; ``offset`` is the source's, and counts as the source does."""

    text: str = field(repr=False)
    offset: int
    found: list[Placed] = field(default_factory=list)


@dataclass(slots=True)
class _Ids:
    """Which entity each id of the source is; None for an id that several have."""

    entities: dict[str, str | None] = field(default_factory=dict)
    relations: set[str] = field(default_factory=set)

    def add(self, node: JsonValue) -> str:
        """An id of our own for one more annotation."""
        ours = f"T{len(self.entities) + 1}"
        theirs = node.get("id").optional_name()
        key = f"\0{ours}" if theirs is None else theirs
        repeated = key in self.entities
        self.entities[f"\0{ours}" if repeated else key] = ours
        if repeated:
            self.entities[key] = None
        return ours


def read_bioc_json(unit: Unit) -> Iterator[Outcome]:
    """The documents of a collection, of a list of them, or the one document that the file is."""
    try:
        nodes = _nodes(parse_json(decoded(unit.content, unit.name), unit.name))
    except MalformedError as error:
        yield error.problem
        return
    for node in nodes:
        yield bioc_document(node)


def _nodes(top: JsonValue) -> list[JsonValue]:
    """The documents; a list of them may be the only value of an object, as in what PubTator gives to download."""
    if isinstance(top.value, list):
        return list(top.items())
    fields = top.fields()
    if "documents" in fields:
        return list(top.get("documents").items())
    wrapped = next(iter(fields.values())) if len(fields) == 1 and not _is_document(top) else None
    if isinstance(wrapped, list) and all(isinstance(each, dict) for each in wrapped):
        return list(JsonValue(wrapped, top.where).items())
    return [top]


def _is_document(node: JsonValue) -> bool:
    return not node.fields().keys().isdisjoint(("id", "passages"))


def bioc_document(node: JsonValue) -> Outcome:
    """One document, in the form that BioC has in JSON."""
    try:
        return _document(node)
    except MalformedError as error:
        return error.problem


def _document(node: JsonValue) -> SourceDocument:
    expect(_is_document(node), node.where, "expected a collection (documents) or a document, got another object")
    passages = list(node.get("passages").items())
    pieces = _pieces(passages)
    ids = _Ids()
    holders = [node, *(each for passage in passages for each in (passage, *passage.get("sentences").items()))]
    for holder in holders:
        for annotation in holder.get("annotations").items():
            expect_room(len(ids.entities), annotation.where)
            _add_annotation(annotation, pieces, ids)
    relations = [relation for holder in holders for relation in holder.get("relations").items()]
    ids.relations = {name for each in relations if (name := each.get("id").optional_name()) is not None}
    left_out: Counter[str] = Counter()
    read = [_relation(each, ids, left_out) for each in relations]
    return SourceDocument(
        id=node.get("id").name(),
        text=expect_text("\n".join(piece.text for piece in pieces), node.where),
        entities=tuple(_placed(pieces)),
        relations=tuple(each for each, is_placed in filter(None, read) if is_placed),
        concept_relations=tuple(each for each, is_placed in filter(None, read) if not is_placed),
        left_out=left_out,
    )


def _pieces(passages: Sequence[JsonValue]) -> list[_Piece]:
    """The texts of the passages, or of the sentences of those that have none, in the order of their offsets."""
    pieces: list[_Piece] = []
    for passage in passages:
        holders = [passage] if passage.get("text").value else list(passage.get("sentences").items())
        for holder in holders:
            text = holder.get("text")
            if text.value not in (None, ""):
                offset = holder.get("offset").integer()
                is_after = not pieces or offset > pieces[-1].offset
                expect(is_after, holder.where, "expected offsets that grow from text to text, got others")
                pieces.append(_Piece(text=text.string(), offset=offset))
    return pieces


def _add_annotation(node: JsonValue, pieces: Sequence[_Piece], ids: _Ids) -> None:
    infons = node.get("infons").fields()
    kind = node.get("infons").get("type").name()
    concepts = {
        each for name, value in infons.items() if name not in _TYPE_INFONS for each in _CONCEPTS.split(str(value))
    }
    entity = SourceEntity(id=ids.add(node), type=kind, start=0, end=0, concepts=frozenset(concepts - {""}))
    locations = [(each.get("offset").integer(), each.get("length").integer()) for each in node.get("locations").items()]
    expect(bool(locations), node.where, "expected a location, got none")
    first = min(offset for offset, _ in locations)
    piece = next((each for each in reversed(pieces) if each.offset <= first), None)
    if piece is None:
        raise MalformedError(node.where, "expected a location in a text, got one before the first")
    stretches = tuple((offset - piece.offset, offset - piece.offset + length) for offset, length in locations)
    words = node.get("text")
    quoted = None if words.value is None else words.string()
    piece.found.append(Placed(entity=entity, stretches=stretches, words=quoted, where=node.where))


def _placed(pieces: Sequence[_Piece]) -> Iterator[SourceEntity]:
    """The entities of all pieces, by offsets into the whole text."""
    start = 0
    for piece in pieces:
        for entity in place(piece.text, piece.found):
            yield replace(entity, start=entity.start + start, end=entity.end + start)
        start += len(piece.text) + 1


def _relation(node: JsonValue, ids: _Ids, left_out: Counter[str]) -> tuple[SourceRelation, bool] | None:
    """A relation, and whether its ends are entities instead of concepts; None of one that is left out."""
    infons = node.get("infons")
    kind = next((infons.get(name).name() for name in _TYPE_INFONS if infons.get(name).value is not None), None)
    if kind is None:
        raise MalformedError(node.where, "expected an infon type or relation, got neither")
    nodes = _by_role([(each.get("role").value, each.get("refid").name()) for each in node.get("nodes").items()])
    named = _by_role([(name, str(value)) for name, value in infons.fields().items() if name not in _TYPE_INFONS])
    if not nodes and len(named) == 2:
        return SourceRelation(type=kind, head=named[0], tail=named[1]), False
    if len(nodes) != 2 or (set(nodes) & ids.relations) - ids.entities.keys():
        left_out["relations of other than two entities"] += 1
        return None
    head, tail = (ids.entities.get(each) for each in nodes)
    if head is None or tail is None:
        raise MalformedError(node.where, "expected ids that one annotation of this document has, got others")
    return SourceRelation(type=kind, head=head, tail=tail), True


def _by_role(ends: Sequence[tuple[object, str]]) -> list[str]:
    """What the ends name, each after its role: head before tail where two roles say which is which."""
    names = [name for _, name in ends]
    return names[::-1] if tuple(str(role).casefold() for role, _ in ends) in _TURNED_ROLES else names

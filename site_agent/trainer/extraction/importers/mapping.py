"""A document in a source's types to the same document in the schema's. What has no type to become is named or dropped.

Entities that then are the same (one type, one place) become one; a relation to what was dropped is dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from common.label_schema import HAS_ATTRIBUTE
from site_agent.trainer.extraction.importers.labels import Named, Names, Wording
from site_agent.trainer.extraction.importers.source import SourceDocument, SourceEntity, SourceRelation
from site_agent.trainer.extraction.importers.type_map import DROP, DROP_ENTITY, TypeMap

ODD_EDGES = "entities that begin or end inside a word, or at white space"
_RELATIONS = "relations"

# Of each table of the type map: what it lacks.
_Missing: TypeAlias = dict[str, dict[Named, None]]


@dataclass(slots=True)
class Unmapped:
    """Types that the type map does not know, by the table that they are missing from. It shows labels, no text."""

    seen: dict[str, Names] = field(default_factory=dict, repr=False)

    def add(self, missing: _Missing, document: SourceDocument, where: str) -> None:
        """Note those of a document."""
        wording = Wording(document)
        for table, found in missing.items():
            names = self.seen.setdefault(table, Names())
            for named in found:
                names.add(named, wording, where, alone=table == _RELATIONS)

    def problems(self) -> Iterator[str]:
        """One sentence for each table."""
        for table, names in sorted(self.seen.items()):
            yield f"type map: expected every type of the source in [{table}], missing: {names.listed()}"


def mapped(
    document: SourceDocument, types: TypeMap, tally: Counter[str], unmapped: Unmapped, where: str
) -> SourceDocument:
    """The document in the schema's types; what is dropped is counted in ``tally``, as are edges that look wrong."""
    missing: _Missing = {}
    kept: dict[tuple[str, int, int], SourceEntity] = {}
    same_as: dict[str, str] = {}
    modifiers: list[tuple[SourceEntity, str]] = []
    for entity in document.entities:
        kind = types.entity(entity.type)
        if kind is None:
            _add(missing, "entities", entity.type)
        asked = [_attribute(each, types, missing) for each in entity.attributes]
        if kind is None or kind == DROP or DROP_ENTITY in asked:
            tally["entities dropped for an attribute" if DROP_ENTITY in asked else "entities of dropped types"] += 1
            continue
        tally["entities of several stretches, covered by one span"] += entity.parts > 1
        first = kept.setdefault((kind, entity.start, entity.end), replace(entity, type=kind, attributes=()))
        if first.id != entity.id:
            tally["entities twice in one place, kept once"] += 1
        same_as[entity.id] = first.id
        modifiers += [(first, each) for each in asked if each not in (None, DROP)]
        tally["attributes dropped"] += asked.count(DROP)
    relations = tuple(_relations(document, types, missing, tally, same_as))
    concept_relations = tuple(_concept_relations(document, types, missing, tally))
    unmapped.add(missing, document, where)
    tally[ODD_EDGES] += sum(_has_odd_edges(document.text, one) for one in kept.values())
    document = replace(
        document, entities=tuple(kept.values()), relations=relations, concept_relations=concept_relations
    )
    return _with_modifiers(document, modifiers)


def _add(missing: _Missing, table: str, name: str, value: str = "") -> None:
    missing.setdefault(table, {})[name, len(value)] = None


def _has_odd_edges(text: str, entity: SourceEntity) -> bool:
    """Whether it cuts a word, or begins or ends with white space: both are rare, unless offsets are wrong."""
    edges = (entity.start, entity.end)
    cuts = any(text[place - 1 : place].isalnum() and text[place : place + 1].isalnum() for place in edges)
    return cuts or text[entity.start].isspace() or text[entity.end - 1].isspace()


def _attribute(attribute: tuple[str, str], types: TypeMap, missing: _Missing) -> str | None:
    """What it becomes. Its value is never shown: annotators write what they like there, words of the note, too."""
    name, value = attribute
    kind = types.attribute(name, value)
    if kind is None:
        _add(missing, "attributes", name, value)
    return kind


def _relations(
    document: SourceDocument, types: TypeMap, missing: _Missing, tally: Counter[str], same_as: dict[str, str]
) -> Iterator[SourceRelation]:
    """Relations between kept entities, each once."""
    seen: set[SourceRelation] = set()
    for relation in document.relations:
        typed = _typed(relation, types, missing, tally)
        if typed is None:
            continue
        head, tail = same_as.get(typed.head), same_as.get(typed.tail)
        if head is None or tail is None or head == tail:
            tally["relations to a dropped entity" if head is None or tail is None else "relations to oneself"] += 1
            continue
        one = replace(typed, head=head, tail=tail)
        if one not in seen:
            seen.add(one)
            yield one


def _concept_relations(
    document: SourceDocument, types: TypeMap, missing: _Missing, tally: Counter[str]
) -> Iterator[SourceRelation]:
    for relation in dict.fromkeys(document.concept_relations):
        typed = _typed(relation, types, missing, tally)
        if typed is not None:
            yield typed


def _typed(relation: SourceRelation, types: TypeMap, missing: _Missing, tally: Counter[str]) -> SourceRelation | None:
    kind = types.relation(relation.type)
    if kind is None:
        _add(missing, _RELATIONS, relation.type)
        return None
    if kind == DROP:
        tally["relations of dropped types"] += 1
        return None
    if relation.type in types.reversed:
        return SourceRelation(type=kind, head=relation.tail, tail=relation.head)
    return replace(relation, type=kind)


def _with_modifiers(document: SourceDocument, modifiers: list[tuple[SourceEntity, str]]) -> SourceDocument:
    """Attributes as modifiers: an attribute names no words of its own, so each lies where its entity does."""
    added: dict[tuple[str, int, int], SourceEntity] = {}
    relations = dict.fromkeys(document.relations)
    for entity, kind in modifiers:
        modifier = replace(entity, id=f"{entity.id} {kind}", type=kind, parts=1, concepts=frozenset())
        first = added.setdefault((kind, entity.start, entity.end), modifier)
        relations[SourceRelation(type=HAS_ATTRIBUTE, head=entity.id, tail=first.id)] = None
    return replace(document, entities=(*document.entities, *added.values()), relations=tuple(relations))

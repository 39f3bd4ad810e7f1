"""One line of a JSONL file to one passage, or to all that is wrong with it. It opens no file.

Problems name a field and say expected against got by type, offset or length: a value of the record is never shown,
because any of them may be text of a note.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypeVar

from common.label_schema import ENTITY_TYPES, RELATION_TYPES
from site_agent.trainer.extraction.passages import Entity, Passage, Relation

_REQUIRED = ("id", "text", "entities")
_OPTIONAL = ("relations", "source", "split", "meta")
_ENTITY_FIELDS = ("id", "type", "start", "end", "text")
_RELATION_FIELDS = ("type", "head", "tail")
_KINDS: Mapping[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "an integer",
    float: "a number with a fraction",
    bool: "a boolean",
    type(None): "null",
}
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fields:
    """Typed reading of one JSON object at ``path``; what is wrong with it is added to ``problems``."""

    values: dict[str, object]
    path: str
    problems: list[str]

    def add(self, name: str, what: str) -> None:
        self.problems.append(f"{self.path}{name}: {what}")

    def get(self, name: str, kind: type[_T]) -> _T | None:
        if name not in self.values:
            self.add(name, "missing")
            return None
        value = self.values[name]
        if type(value) is not kind:  # not isinstance: true is no offset
            self.add(name, f"expected {_KINDS[kind]}, got {_KINDS[type(value)]}")
            return None
        return value

    def get_words(self, name: str) -> str | None:
        """A string that is not empty and that UTF-8 can hold: JSON can write half of a surrogate pair."""
        value = self.get(name, str)
        if value is None:
            return None
        if not value:
            self.add(name, "expected at least one character, got none")
        elif any("\ud800" <= character <= "\udfff" for character in value):
            self.add(name, "expected Unicode text, got half of a surrogate pair")
        else:
            return value
        return None

    def get_one_of(self, name: str, allowed: Collection[str]) -> str | None:
        value = self.get(name, str)
        if value is None or value in allowed:
            return value
        self.add(name, f"expected one of {', '.join(sorted(allowed))}; got another string of {len(value)} characters")
        return None

    def get_objects(self, name: str) -> list[_Fields]:
        """The objects in the list ``name``; its items that are none become problems."""
        objects = []
        for index, value in enumerate(self.get(name, list) or []):
            path = f"{self.path}{name}[{index}]"
            if isinstance(value, dict):
                objects.append(_Fields(values=value, path=f"{path}.", problems=self.problems))
            else:
                self.problems.append(f"{path}: expected an object, got {_KINDS[type(value)]}")
        return objects

    def refuse_others(self, known: Collection[str]) -> None:
        unknown = len(self.values.keys() - set(known))
        if unknown:
            where = self.path.removesuffix(".") or "record"
            self.problems.append(f"{where}: expected no fields but {', '.join(known)}; got {unknown} others")


def parse_record(line: bytes) -> Passage | tuple[str, ...]:
    """Read one line of the JSONL schema; a tuple of problems, at least one, if it is not a passage."""
    problems: list[str] = []
    values = _decode(line, problems)
    if values is None:
        return tuple(problems)
    record = _Fields(values=values, path="", problems=problems)
    record.refuse_others((*_REQUIRED, *_OPTIONAL))
    passage_id = record.get_words("id")
    text = record.get_words("text")
    entities = _entities(record, text)
    relations = _relations(record)
    meta = _meta(record)
    if problems or passage_id is None or text is None:
        return tuple(problems)
    return Passage(
        id=passage_id,
        text=text,
        entities=entities,
        relations=relations,
        document=meta.get("doc") or passage_id,
        patient=meta.get("patient") or None,
    )


def _decode(line: bytes, problems: list[str]) -> dict[str, object] | None:
    """The JSON object of ``line``. Parsers' exceptions hold the line itself, so none is kept or chained."""
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        problems.append(f"expected UTF-8, got something else at byte {error.start + 1}")
    except json.JSONDecodeError as error:
        problems.append(f"expected JSON, got a syntax error at character {error.pos + 1}")
    except (ValueError, RecursionError):
        problems.append("expected JSON, got a number too long or objects nested too deep")
    else:
        if isinstance(value, dict):
            return value
        problems.append(f"expected an object, got {_KINDS[type(value)]}")
    return None


def _entities(record: _Fields, text: str | None) -> tuple[Entity, ...]:
    entities = [_entity(fields, text) for fields in record.get_objects("entities")]
    found = [entity for entity in entities if entity is not None]
    _refuse_repeats(record, "entities", [entity.id for entity in found])
    return tuple(found)


def _entity(fields: _Fields, text: str | None) -> Entity | None:
    fields.refuse_others(_ENTITY_FIELDS)
    entity_id = fields.get_words("id")
    entity_type = fields.get_one_of("type", ENTITY_TYPES)
    start, end = fields.get("start", int), fields.get("end", int)
    words = fields.get("text", str)
    if entity_id is None or entity_type is None or start is None or end is None or words is None or text is None:
        return None
    if not 0 <= start < end <= len(text):
        fields.add("start, end", f"expected 0 <= start < end <= {len(text)}, got {_short(start)} and {_short(end)}")
        return None
    if text[start:end] != words:
        fields.add(
            "text",
            f"expected what the passage's text holds from {start} to {end} (Unicode characters, end exclusive), "
            f"got another string of {len(words)} characters",
        )
        return None
    return Entity(id=entity_id, type=entity_type, start=start, end=end)


def _relations(record: _Fields) -> tuple[Relation, ...]:
    """The relations; none where the record does not have the field."""
    if "relations" not in record.values:
        return ()
    known = _entity_ids(record.values.get("entities"))
    relations = []
    for fields in record.get_objects("relations"):
        fields.refuse_others(_RELATION_FIELDS)
        relation_type = fields.get_one_of("type", RELATION_TYPES)
        head, tail = fields.get("head", str), fields.get("tail", str)
        for name, value in (("head", head), ("tail", tail)):
            if value is not None and value not in known:
                fields.add(name, "expected the id of an entity of this passage, got another string")
        if relation_type is not None and head is not None and tail is not None:
            relations.append(Relation(type=relation_type, head=head, tail=tail))
    return tuple(relations)


def _entity_ids(entities: object) -> set[object]:
    """Ids of all entities, of malformed ones too: a relation to one of those is not a second problem."""
    if not isinstance(entities, list):
        return set()
    return {entity["id"] for entity in entities if isinstance(entity, dict) and isinstance(entity.get("id"), str)}


def _refuse_repeats(record: _Fields, name: str, ids: list[str]) -> None:
    repeats = len(ids) - len(set(ids))
    if repeats:
        record.add(name, f"expected every id once, got {repeats} repeated")


def _meta(record: _Fields) -> dict[str, str]:
    """What ``meta`` says of document and patient."""
    if "meta" not in record.values:
        return {}
    meta = record.get("meta", dict)
    if meta is None:
        return {}
    patient = meta.get("patient")
    named = meta | {"patient": str(patient)} if type(patient) is int else meta  # many sites number their patients
    fields = _Fields(values=named, path="meta.", problems=record.problems)
    return {name: value for name in ("doc", "patient") if name in meta and (value := fields.get(name, str)) is not None}


def _short(number: int) -> str:
    return str(number) if abs(number) < 10**9 else "a number beyond a billion"

"""JSON lines as doccano, Prodigy and spaCy's examples have them: one text a line, with its spans and relations.

Spans stand in ``entities``, ``label``, ``labels`` or ``spans``, as ``[start, end, type]`` or as objects. Of records
with Prodigy's ``answer``, those that were accepted are read.
"""

from __future__ import annotations

from collections.abc import Iterator

from site_agent.trainer.extraction.importers.json_values import JsonValue, json_lines, parse_json
from site_agent.trainer.extraction.importers.placing import Placed, place
from site_agent.trainer.extraction.importers.source import (
    LeftOut,
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

_SPANS = ("entities", "label", "labels", "spans")
_ACCEPT = "accept"
_ANSWERS = (_ACCEPT, "reject", "ignore")


def read_jsonl(unit: Unit) -> Iterator[Outcome]:
    """The documents of a file, one a line."""
    try:
        content = decoded(unit.content, unit.name)
    except MalformedError as error:
        yield error.problem
        return
    for number, (line, where) in enumerate(json_lines(content, unit.name), start=1):
        try:
            yield _outcome(parse_json(line, where), f"{unit.stem}-{number}")
        except MalformedError as error:
            yield error.problem


def _outcome(record: JsonValue, default_id: str) -> Outcome:
    answer = record.get("answer")
    if answer.value not in (None, _ACCEPT):
        expect(answer.value in _ANSWERS, answer.where, f"expected one of {', '.join(_ANSWERS)}, got another value")
        return LeftOut(what="records that were rejected or ignored")
    return _document(record, default_id)


def _document(record: JsonValue, default_id: str) -> SourceDocument:
    text = expect_text(record.get("text").string(), record.where)
    meta = record.get("meta")
    known = meta if isinstance(meta.value, dict) else JsonValue({}, meta.where)
    names: dict[str, str] = {}
    found: list[Placed] = []
    spans = [name for name in _SPANS if record.get(name).value is not None]
    expect(len(spans) <= 1, record.where, f"expected spans in one of {', '.join(_SPANS)}, got {len(spans)} of them")
    for node in record.get(spans[0]).items() if spans else ():
        expect_room(len(found), node.where)
        found.append(_span(node, f"T{len(found) + 1}", names))
    document_id = known.get("doc").optional_name() or record.get("id").optional_name() or default_id
    return SourceDocument(
        id=document_id,
        text=text,
        entities=place(text, found),
        relations=tuple(_relation(node, names) for node in record.get("relations").items()),
        patient=known.get("patient").optional_name() or record.get("patient").optional_name(),
    )


def _span(node: JsonValue, entity_id: str, names: dict[str, str]) -> Placed:
    """One span; ``names`` gets its id, and its tokens' place, by which relations may name it."""
    if isinstance(node.value, list):
        parts = list(node.items())
        expect(len(parts) == 3, node.where, f"expected start, end and type, got {len(parts)} values")
        start, end, kind, words = parts[0].integer(), parts[1].integer(), parts[2].name(), None
    else:
        start, end = (_either(node, f"{name}_offset", name).integer() for name in ("start", "end"))
        kind = _either(node, "type", "label").name()
        quoted = node.get("text")
        words = None if quoted.value is None else quoted.string()
        own = node.get("id").optional_name()
        expect(own is None or own not in names, node.where, "expected every id once, got one repeated")
        names |= {} if own is None else {own: entity_id}
    names.setdefault(_by_place(start, end), entity_id)
    entity = SourceEntity(id=entity_id, type=kind, start=0, end=0)
    return Placed(entity=entity, stretches=((start, end),), words=words, where=node.where)


def _relation(node: JsonValue, names: dict[str, str]) -> SourceRelation:
    head, tail = (
        _end(node, plain, spans)
        for plain, spans in ((("head", "from_id"), "head_span"), (("tail", "to_id"), "child_span"))
    )
    known = [names.get(each) for each in (head, tail)]
    expect(None not in known, node.where, "expected ids or spans of entities of this text, got others")
    return SourceRelation(type=_either(node, "type", "label").name(), head=str(known[0]), tail=str(known[1]))


def _end(node: JsonValue, plain: tuple[str, str], span: str) -> str:
    """What one end of a relation is called: an id, or (Prodigy) a place; there ``head`` is the number of a token."""
    place_there = node.get(span)
    if isinstance(place_there.value, dict):
        return _by_place(place_there.get("start").integer(), place_there.get("end").integer())
    return _either(node, *plain).name()


def _by_place(start: int, end: int) -> str:
    return f"{start} {end}"


def _either(node: JsonValue, one: str, other: str) -> JsonValue:
    return node.get(one) if node.get(one).value is not None else node.get(other)

"""JSON lines as doccano, Prodigy and spaCy's examples have them: one text a line, with its spans and relations.

Spans stand under one of the names of `_SPANS`, as ``[start, end, type]`` or as objects; a record with none of them is
malformed, for a name that is not known would be a note without entities. A record may be spaCy's training form, a text
and an object. Of records with Prodigy's ``answer``, those that were accepted are read; there, no spans are no entities.
Records are counted by the names of fields that are not read and hold a list or an object: they may be annotations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from site_agent.trainer.extraction.importers.json_values import JsonValue, json_lines, parse_json
from site_agent.trainer.extraction.importers.labels import Names, Wording, shown
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

# The export of doccano's first versions, where a label may be its number alone.
_NUMBERED = "annotations"
_SPANS = ("entities", "label", "labels", "spans", "ents", _NUMBERED)
_RELATIONS = "relations"
_ACCEPT = "accept"
_ANSWERS = (_ACCEPT, "reject", "ignore")
# Lists and objects of these tools that hold neither spans nor relations: doccano's comments, Prodigy's choices (those
# chosen are under "accept") and settings, and what spaCy says of tokens, sentences and whole texts.
_OTHERS = (
    *("comments", "Comments"),
    *(_ACCEPT, "options", "config"),
    *("tokens", "sents", "cats", "words", "spaces", "tags", "pos", "morphs", "lemmas", "heads", "deps", "sent_starts"),
)
_KNOWN = frozenset({"id", "text", "meta", "patient", "answer", _RELATIONS, *_SPANS, *_OTHERS})


def read_jsonl(unit: Unit) -> Iterator[Outcome]:
    """The documents of a file, one a line."""
    try:
        content = decoded(unit.content, unit.name)
    except MalformedError as error:
        yield error.problem
        return
    unread = Names()
    for number, (line, where) in enumerate(json_lines(content, unit.name), start=1):
        try:
            record = _record(parse_json(line, where))
            outcome = _outcome(record, f"{unit.stem}-{number}")
        except MalformedError as error:
            yield error.problem
            continue
        yield _with_unread(outcome, record, unread, unit.name) if isinstance(outcome, SourceDocument) else outcome


def _with_unread(document: SourceDocument, record: JsonValue, names: Names, file: str) -> SourceDocument:
    """The document, counted by each field that is not read and may hold annotations; what may be text by its length."""
    fields = record.fields()
    unread = [name for name in fields.keys() - _KNOWN if isinstance(fields[name], list | dict) and fields[name]]
    if not unread:
        return document
    wording, left_out = Wording(document), dict(document.left_out)
    for name in sorted(unread):
        is_kept = names.add((name, 0), wording, file)
        told = shown((name, 0), names.seen[name, 0]) if is_kept else "others"
        left_out[f"records with a field that is not read, {told}"] = 1
    return replace(document, left_out=left_out)


def _record(line: JsonValue) -> JsonValue:
    """An object; of spaCy's training form the object of the annotations, with the text in it."""
    if not isinstance(line.value, list):
        return line
    parts = list(line.items())
    is_pair = len(parts) == 2 and isinstance(parts[0].value, str) and isinstance(parts[1].value, dict)
    expect(is_pair, line.where, "expected an object, or a list of a text and an object, got another list")
    return JsonValue(parts[1].fields() | {"text": parts[0].value}, parts[1].where)


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
    left_out: Counter[str] = Counter()
    holder = _holder(record, left_out)
    for node in record.get(holder).items():
        expect_room(len(found), node.where)
        if holder == _NUMBERED:
            _expect_name(node)
        found.append(_span(node, f"T{len(found) + 1}", names))
    document_id = known.get("doc").optional_name() or record.get("id").optional_name() or default_id
    return SourceDocument(
        id=document_id,
        text=text,
        entities=place(text, found),
        relations=tuple(_relation(node, names) for node in record.get(_RELATIONS).items()),
        patient=known.get("patient").optional_name() or record.get("patient").optional_name(),
        left_out=left_out,
    )


def _holder(record: JsonValue, left_out: Counter[str]) -> str:
    """The name that the spans stand under; spaCy has groups of spans beside them, as an object."""
    there = [name for name in _SPANS if name in record.fields()]
    filled = [name for name in there if record.get(name).value is not None]
    if len(filled) > 1 and isinstance(record.get("spans").value, dict):
        filled.remove("spans")
        left_out["documents with span groups"] += 1
    if not there and record.get("answer").value == _ACCEPT:
        return "spans"
    expected = f"expected spans in one of {', '.join(_SPANS)}"
    expect(bool(there), record.where, f"{expected}, got none of them")
    expect(len(filled) <= 1, record.where, f"{expected}, got {len(filled)} of them")
    return (filled or there)[0]


def _expect_name(node: JsonValue) -> None:
    """Refuse the number of a label, which says nothing outside the database that it is from."""
    label = node.get("label")
    expect(type(label.value) is not int, label.where, "expected the name of a label, got its number")


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

"""Annotated notes of other tools: any bytes are sound passages or problems, and no problem shows what the file holds.

The first byte of an input chooses the format. A zero byte parts a BRAT text from its annotations; a DocBin is given
unpacked, because no chance gets through zlib's checksum.
"""

from __future__ import annotations

import base64
import json
import zlib

import msgpack

from site_agent.trainer.extraction.importers.formats import FORMATS
from site_agent.trainer.extraction.importers.importing import Import
from site_agent.trainer.extraction.importers.murmur import murmur64
from site_agent.trainer.extraction.importers.source import Unit
from site_agent.trainer.extraction.importers.type_map import TypeMap
from site_agent.trainer.extraction.passage_records import parse_record
from site_agent.trainer.extraction.passage_writing import to_line
from tests.fuzz.target import Target

NAMES = sorted(FORMATS)
PACKAGE = "site_agent.trainer.extraction.importers"
READERS = "bioc bioc_xml brat conll csv_spans docbin fhir jsonl_spans label_studio phee pubtator json_values placing"
TYPES = TypeMap(entities={"*": "problem"}, relations={"*": "treats"}, attributes={"*": "negation", "off": "drop"})
# Words of no message of ours.
CANARY = "Ždanov"
TEXT = f"No fever, {CANARY}."


def run(content: bytes) -> None:
    """Import ``content``, as far as files go."""
    name = NAMES[content[0] % len(NAMES)] if content else NAMES[0]
    body, annotations = content[1:], b""
    if name == "brat":
        body, _, annotations = body.partition(b"\0")
    if name == "docbin":
        body = zlib.compress(body, 1)
    importing = Import(types=TYPES, max_words=8)
    unit = Unit(name="notes.x", stem="notes", content=body, annotations=annotations)
    for passage in importing.passages(FORMATS[name].read, [unit]):
        assert parse_record(to_line(passage, name)) == passage
    assert importing.documents or importing.left_out or importing.problems.total
    assert CANARY not in importing.problems.message()


def seeds() -> list[bytes]:
    """For each format a file by the book, and some that are not."""
    samples: dict[str, list[str] | list[bytes]] = {
        "bioc-json": _bioc_json(),
        "bioc-xml": _bioc_xml(),
        "brat": _brat(),
        "conll": [
            f"-DOCSTART- O\n# patient = 1\nNo O\nfever B-a\nand I-a\n\n{CANARY} S-b\n",
            "# document = x\na\n",
            f"# sent_id = {CANARY}\n# patient = {CANARY} x\na O\n",
            "a I-x",
        ],
        "csv": _csv(),
        "docbin": _docbin(),
        "fhir": _fhir(),
        "jsonl": _jsonl(),
        "label-studio": _label_studio(),
        "phee": _phee(),
        "pubtator": _pubtator(),
    }
    files = [
        bytes([NAMES.index(name)]) + (each.encode() if isinstance(each, str) else each)
        for name in NAMES
        for each in [*samples[name], b"", b"\xff", b"[" * 3000]
    ]
    return [b"", *files]


def _bioc_json() -> list[str]:
    places = [{"offset": 5, "length": 2}, {"offset": 8, "length": 5}]
    annotation = {"id": "1", "infons": {"type": "a", "MESH": "D1|D2"}, "text": "No fever", "locations": places}
    relations = [
        {"id": "R1", "infons": {"type": "x"}, "nodes": [{"refid": "1"}, {"refid": "1"}]},
        {"infons": {"relation": "CID", "one": "D1", "two": "D2"}},
        {"infons": {"relation": "CID"}, "nodes": [{"refid": "R1"}, {"refid": "1"}]},
        {"infons": {"type": "x"}, "nodes": [{"refid": "1", "role": "tail"}, {"refid": "1", "role": "head"}]},
    ]
    passage = {"offset": 5, "text": TEXT, "annotations": [annotation]}
    sentence = {"offset": 50, "sentences": [{"offset": 50, "text": TEXT}]}
    good = {"id": 1, "passages": [passage, sentence], "relations": relations}
    early = {"id": 2, "passages": [{**passage, "offset": 9}]}
    twice = {"id": 3, "passages": [{**passage, "annotations": [annotation, annotation]}], "relations": relations[:1]}
    untyped = {"id": 4, "relations": [{"infons": {}}]}
    collection, others = {"documents": [good, early, twice, untyped]}, [{"PubTator3": [good]}, {CANARY: CANARY}]
    return [*map(json.dumps, (collection, [good], good, *others)), "1"]


def _bioc_xml() -> list[str]:
    passage = (
        f'<passage><offset>0</offset><text>{TEXT}</text><annotation id="1"><infon key="type">a</infon>'
        '<location offset="3" length="5"/><text>fever</text></annotation></passage>'
    )
    relation = '<relation id="R"><infon key="type">x</infon><node refid="1"/><node refid="1"/></relation>'
    document = f"<document><id>1</id>{passage}{relation}</document>"
    return [
        f'<!DOCTYPE collection SYSTEM "BioC.dtd"><collection>{document}</collection>',
        f"<collection>{document}",
        f'<!DOCTYPE c [<!ENTITY a "{CANARY}">]><c>&a;</c>',
        '<?xml version="1.0" encoding="x-none"?><a/>',
        "<a>" * 20,
        document.replace('"3"', '"x"'),
    ]


def _brat() -> list[str]:
    lines = [
        "T1\ta 3 8\tfever",
        "T2\tb 0 2;3 8\tNo fever",
        "T3\ta 3 8\tfever",
        "E1\ta:T1 Theme2:T2",
        "R1\tx Arg1:E1 Arg2:T2",
        "R2\tx Arg2:E1 Arg1:T2",
        "A1\tsure T1 low",
        "A2\toff T1",
        "A3\tweak R1",
        "*\tEquiv T1 T2",
        "#1\tNote T1\tx",
    ]
    wrong = ["T1\ta 3 99\tx", "T1\ta 3 8\tx", "T1\ta 8 3\tx", "E1\ta:T9", f"{CANARY}\n", "T1\ta 3 9999999999\tx"]
    good = "\n".join(lines)
    moved = f"😷 é\r\n{TEXT}\0T1\ta 11 16\tfever"
    return [f"{TEXT}\0{good}", moved, *(f"{TEXT}\0{each}" for each in wrong), f"{TEXT}\0{lines[0]}\n{lines[0]}"]


def _csv() -> list[str]:
    header = "document,text,start,end,type,words,patient\n"
    good = f'{header}d,"{TEXT}",3,8,a,fever,1\nd,,0,2,a,,\ne,x,,,,,\n'
    wrong = [f'd,"{TEXT}",3,x,a,,', f'd,"{TEXT}', "d,x,0,9,a,,", "d,x\n"]
    more = f'document,text,start,end,type,{CANARY},\nd,"{TEXT}",,,,a,b\n'
    twice = f"document,text,start,end,type,{CANARY},{CANARY}\n"
    return [good, good.replace(",", ";"), "a,b\n", more, twice, *(f"{header}{each}" for each in wrong)]


def _docbin() -> list[bytes]:
    words = ["No", "fever", "a", CANARY]
    numbers = [murmur64(word.encode(), 1) for word in words]
    rows = [(numbers[0], 2, 0), (numbers[1], 3, numbers[2]), (numbers[3], 1, numbers[2]), (90, 3, numbers[2])]
    message = {
        "attrs": [65, 77, 78],
        "tokens": b"".join(number.to_bytes(8, "little") for row in rows for number in row),
        "spaces": b"\1\1\1\0",
        "lengths": (4).to_bytes(4, "little"),
        "strings": words,
        "flags": [{"has_unknown_spaces": True}],
        "span_groups": [b"\x91\x90"],
    }
    changes: list[dict[str, object]] = [
        {},
        {"attrs": 1},
        {"attrs": [65]},
        {"tokens": b"1"},
        {"lengths": b"\1\0\0\0"},
        {"lengths": b"", "tokens": b"", "spaces": b""},
        {"strings": [1]},
        {"strings": words[:2]},
    ]
    return [msgpack.packb(message | change) for change in changes] + [msgpack.packb([1]), b"\xc1"]


def _fhir() -> list[str]:
    def attachment(kind: str, content: str) -> dict[str, object]:
        return {"attachment": {"contentType": kind, "data": base64.b64encode(content.encode()).decode()}}

    both = [attachment("text/plain", TEXT), attachment("text/x-brat", "T1\ta 3 8\tfever")]
    good = {"resourceType": "DocumentReference", "id": "d", "status": "current", "content": both}
    owned = {**good, "subject": {"reference": "Patient/1"}}
    wrong = {**good, "content": [{"attachment": {"contentType": "text/plain", "data": "!"}}]}
    others = [{**good, "status": "superseded"}, {"resourceType": "Patient"}, {**good, "content": both[:1]}]
    bundle = {"resourceType": "Bundle", "entry": [{"resource": each} for each in (owned, wrong, *others)]}
    return [json.dumps(bundle), "\n".join(json.dumps(each) for each in (good, owned)), json.dumps(good, indent=1)]


def _jsonl() -> list[str]:
    spans = [{"id": 1, "start": 3, "end": 8, "label": "a", "text": "fever"}, [0, 2, "b"]]
    ends = {"head_span": {"start": 3, "end": 8}, "child_span": {"start": 0, "end": 2}}
    relations = [{"type": "x", "head": 1, "tail": 1}, {"label": "y", **ends}]
    good = {"id": "n", "text": TEXT, "spans": spans, "relations": relations, "meta": {"doc": "m", "patient": 1}}
    wrong = [
        {**good, "label": []},
        {**good, "spans": [[1]]},
        {**good, "answer": "reject"},
        {**good, "answer": CANARY},
        {**good, "relations": [{"type": "x", "head": 9, "tail": 1}]},
    ]
    old = {"text": TEXT, "annotations": [{"label": label, "start_offset": 3, "end_offset": 8} for label in ("a", 1)]}
    spacy = {"text": TEXT, "ents": spans[:1], "spans": {"sc": []}}
    others = [["x"], [TEXT, {"entities": [[3, 8, "a"]]}], old, spacy, {"text": TEXT, CANARY: spans}]
    lines = "\n".join(json.dumps(each) for each in (good, *wrong, *others))
    return [lines, "1", '{"text": "x", "id": "\\ud800", "spans": []}', "9" * 5000]


def _label_studio() -> list[str]:
    place = {"start": 3, "end": 8}
    region = {"id": "r", "type": "labels", "value": {**place, "text": "fever", "labels": ["a", "b"]}}
    chosen = {"id": "r", "type": "choices", "from_name": "sure", "value": {**place, "choices": ["low"]}}
    relations = [
        {"type": "relation", "from_id": "r", "to_id": "r", "direction": direction, "labels": labels}
        for direction, labels in (("right", ["x"]), ("left", []), ("bi", []))
    ]
    items = [region, chosen, {"type": "rating"}, *relations]
    results = [items, [{"type": "hypertextlabels"}], [{**relations[0], "to_id": "q"}]]
    tasks = [{"id": n, "data": {"text": TEXT}, "annotations": [{"result": each}]} for n, each in enumerate(results)]
    unfinished = {"id": 8, "annotations": [{"was_cancelled": True}]}
    return [json.dumps([*tasks, unfinished, {"id": 9, "annotations": [{}, {}]}, {"id": 10}]), "{}"]


def _phee() -> list[str]:
    fever, no = ({"text": [[word]], "start": [[TEXT.index(word)]], "entity_id": ["T1"]} for word in ("fever", "No"))
    combined = {"event_id": "E2", "event_type": "Combination", "Trigger": no, "Drug": fever}
    treatment = {**no, "Drug": fever, "Disorder": fever, "Combination": [combined]}
    event = {"event_id": "E1", "event_type": "Adverse_event", "Trigger": no, "Subject": {**no, "Age": no}}
    good = {**event, "Treatment": treatment, "Effect": fever, "Negated": {**no, "value": True}}
    wrong = [
        {**event, "event_type": CANARY},
        {**event, CANARY: no},
        {**event, "Effect": {**no, "start": [[1]]}},
        {**event, "Effect": {**no, "start": [[0, 1]]}},
        {**event, "Effect": {**no, "start": []}},
    ]
    lists: list[object] = [[{"events": [each]}] for each in (good, *wrong)]
    lines = [{"id": n, "context": TEXT, "annotations": each} for n, each in enumerate([*lists, [], [{}]])]
    return ["\n".join(json.dumps(each) for each in lines), "1"]


def _pubtator() -> list[str]:
    good = f"1|t|{TEXT}\n1|a|Fever.\n1\t3\t8\tfever\ta\tD1|D2\n1\tCID\tD1\tD2\n"
    wrong = ["1|a|x", "1|t|x\n2|a|x", "1|t|x\n1|t|x", "1|t|x\n1\tx", "1|t|x\n2\t0\t1\tx\ta", "1|t|x\n1\t0\t1\tx\t "]
    return [good, "\n\n".join([good, *wrong])]


TARGET = Target(modules=tuple(f"{PACKAGE}.{name}" for name in READERS.split()), run=run, seeds=seeds)

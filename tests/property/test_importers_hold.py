"""Whatever a file holds, a reader finds sound documents or problems and raises nothing; what is written is read."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from site_agent.trainer.extraction.importers.brat import read_brat
from site_agent.trainer.extraction.importers.csv_spans import read_csv
from site_agent.trainer.extraction.importers.formats import FORMATS
from site_agent.trainer.extraction.importers.importing import Import
from site_agent.trainer.extraction.importers.pubtator import read_pubtator
from site_agent.trainer.extraction.importers.source import Problem, SourceDocument, SourceEntity, SourceRelation
from site_agent.trainer.extraction.importers.type_map import TypeMap
from site_agent.trainer.extraction.passage_records import parse_record
from site_agent.trainer.extraction.passage_writing import to_line
from tests.fakes.importing import documents, imported, mentions, unit

# Characters of one to four bytes, and white space of every kind that cuts lines or sentences.
LETTERS = st.sampled_from("ab.é😷 \n\t,")
TYPES = st.sampled_from(["problem", "drug", "Sign", "Dose"])
MAP = TypeMap(entities={"*": "drop", "Sign": "test"}, relations={"*": "treats"}, attributes={"*": "negation"})
# What lines of the formats are made of, so that arbitrary input gets further than the first check.
PIECES = st.lists(
    st.sampled_from([b"T1\tSign 0 2\t", b"R1\tx a:T1 b:T1", b"E1\tx:T1", b"1|t|", b"1|a|", b"1\t0\t2\t", b"\n", b"ab"])
    | st.sampled_from([b'{"', b'":', b"[", b"]", b"}", b",", b"0", b"id", b"text", b"<a>", b"</a>", b"&a;", b"\t"])
    | st.sampled_from([b"document,text,start,end,type\n", b'{"text": "ab", "spans": [[0, 1, "a"]]}', b"a B-x\n"])
    | st.binary(max_size=4),
    max_size=12,
).map(b"".join)


@st.composite
def annotated(draw: st.DrawFn) -> SourceDocument:
    """Documents in the fields that every format can say."""
    text = draw(st.text(LETTERS, min_size=1, max_size=40))
    places = st.tuples(st.integers(0, len(text) - 1), st.integers(1, len(text))).filter(lambda pair: pair[0] < pair[1])
    found = draw(st.lists(st.tuples(places, TYPES), max_size=5))
    entities = tuple(
        SourceEntity(id=f"T{number}", type=kind, start=start, end=end)
        for number, ((start, end), kind) in enumerate(found, start=1)
    )
    ends = st.sampled_from([one.id for one in entities]) if entities else st.nothing()
    relations = st.builds(SourceRelation, type=st.sampled_from(["for", "of"]), head=ends, tail=ends)
    return SourceDocument(
        id="one", text=text, entities=entities, relations=tuple(draw(st.lists(relations, max_size=3)))
    )


@pytest.mark.parametrize("name", FORMATS)
@given(content=PIECES, annotations=PIECES)
def test_any_bytes_are_problems_or_documents_that_can_be_imported(
    name: str, content: bytes, annotations: bytes
) -> None:
    of = unit(content, annotations)
    run = Import(types=MAP)
    outcomes = list(FORMATS[name].read(of))
    for passage in imported(run, *outcomes):
        assert parse_record(to_line(passage, name)) == passage
    bad = sum(isinstance(outcome, Problem) for outcome in outcomes)
    assert run.documents + run.problems.total >= bad


def as_brat(document: SourceDocument) -> str:
    """The lines of a document's annotations."""
    words = [document.text[one.start : one.end].replace("\n", " ") for one in document.entities]
    lines = [
        f"{one.id}\t{one.type} {one.start} {one.end}\t{said}\n"
        for one, said in zip(document.entities, words, strict=True)
    ]
    lines += [f"R{n}\t{one.type} Arg1:{one.head} Arg2:{one.tail}\n" for n, one in enumerate(document.relations)]
    return "".join(lines)


@given(annotated())
def test_a_document_written_as_brat_is_read_as_it_was(document: SourceDocument) -> None:
    assert documents(read_brat, unit(document.text, as_brat(document))) == [document]


@given(annotated())
def test_a_document_written_as_pubtator_is_read_as_it_was(document: SourceDocument) -> None:
    text = document.text.replace("\n", " ").replace("\t", " ")
    lines = [
        f"one|t|{text}",
        *(f"one\t{e.start}\t{e.end}\t{text[e.start : e.end]}\t{e.type}" for e in document.entities),
    ]
    (read,) = documents(read_pubtator, unit("\n".join(lines)))

    assert (read.text, read.entities) == (text, document.entities)


def as_bioc(document: SourceDocument) -> object:
    """One BioC document with its text in one passage."""
    annotations = [
        {
            "id": one.id,
            "infons": {"type": one.type},
            "text": document.text[one.start : one.end],
            "locations": [{"offset": one.start + 9, "length": one.end - one.start}],
        }
        for one in document.entities
    ]
    relations = [
        {"infons": {"type": one.type}, "nodes": [{"refid": one.head}, {"refid": one.tail}]}
        for one in document.relations
    ]
    passage = {"offset": 9, "text": document.text, "annotations": annotations}
    return {"id": document.id, "passages": [passage], "relations": relations}


def as_tasks(document: SourceDocument) -> object:
    """An export of Label Studio, whose offsets count UTF-16 units."""

    def units(length: int) -> int:
        return len(document.text[:length].encode("utf-16-le")) // 2

    items: list[object] = [
        {
            "id": one.id,
            "type": "labels",
            "value": {
                "start": units(one.start),
                "end": units(one.end),
                "text": document.text[one.start : one.end],
                "labels": [one.type],
            },
        }
        for one in document.entities
    ]
    items += [
        {"type": "relation", "from_id": one.head, "to_id": one.tail, "direction": "right", "labels": [one.type]}
        for one in document.relations
    ]
    given_data = {"text": document.text, "document": document.id}
    return [{"id": 1, "data": given_data, "annotations": [{"result": items}]}]


def as_lines(document: SourceDocument) -> object:
    """A line as doccano writes it."""
    entities = [
        {"id": one.id, "start_offset": one.start, "end_offset": one.end, "label": one.type} for one in document.entities
    ]
    relations = [{"from_id": one.head, "to_id": one.tail, "type": one.type} for one in document.relations]
    return {"id": document.id, "text": document.text, "entities": entities, "relations": relations}


WRITERS: dict[str, Callable[[SourceDocument], object]] = {
    "bioc-json": as_bioc,
    "label-studio": as_tasks,
    "jsonl": as_lines,
}


@pytest.mark.parametrize("name", WRITERS)
@given(document=annotated())
def test_a_document_written_as_json_is_read_as_it_was(name: str, document: SourceDocument) -> None:
    (read,) = documents(FORMATS[name].read, unit(json.dumps(WRITERS[name](document))))

    assert (read.id, read.text, read.relations) == (document.id, document.text, document.relations)
    # Two readings of the offsets may both fit the words: then the words are the same.
    assert mentions(read) == mentions(document)


@given(annotated())
def test_a_document_written_as_csv_is_read_as_it_was(document: SourceDocument) -> None:
    out = io.StringIO(newline="")
    rows = csv.writer(out)
    rows.writerow(["document", "text", "start", "end", "type"])
    rows.writerow([document.id, document.text, "", "", ""])
    rows.writerows([document.id, "", one.start, one.end, one.type] for one in document.entities)
    (read,) = documents(read_csv, unit(out.getvalue()))

    assert (read.text, read.entities) == (document.text, document.entities)


@given(annotated(), st.integers(1, 5))
def test_passages_of_a_document_hold_all_its_entities_with_their_words(document: SourceDocument, words: int) -> None:
    types = TypeMap(entities={"Sign": "test", "Dose": "dosage"}, relations={"for": "treats", "of": "hasAttr"})
    run = Import(types=types, max_words=words)
    passages = imported(run, document)
    kept = sorted((one.type, p.text[one.start : one.end]) for p in passages for one in p.entities)
    gold = {(str(types.entity(one.type)), one.start, one.end) for one in document.entities}

    if not run.left_out["documents without a word"]:
        assert kept == sorted((kind, document.text[start:end]) for kind, start, end in gold)
        assert "".join("".join(p.text for p in passages).split()) == "".join(document.text.split())

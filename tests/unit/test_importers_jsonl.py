"""JSON lines of doccano, Prodigy and spaCy: what each becomes, and how what is malformed is told."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from site_agent.trainer.extraction.importers.jsonl_spans import read_jsonl
from site_agent.trainer.extraction.importers.source import LeftOut
from tests.fakes.importing import documents, mentions, problems, unit

NAMES = "entities, label, labels, spans, ents, annotations"
SPAN = {"start": 3, "end": 8, "label": "Sign"}


def as_json(value: object) -> str:
    return json.dumps(value)


@pytest.mark.parametrize("spans", ["entities", "label", "labels", "spans", "ents"])
@pytest.mark.parametrize(
    "span",
    [
        [3, 8, "Sign"],
        {"start": 3, "end": 8, "label": "Sign"},
        {"start_offset": 3, "end_offset": 8, "type": "Sign", "text": "fever", "id": 4},
    ],
)
def test_spans_of_json_lines_may_have_any_of_these_forms(spans: str, span: object) -> None:
    (document,) = documents(read_jsonl, unit(as_json({"text": "No fever.", spans: [span]})))

    assert (document.id, mentions(document)) == ("one-1", [("Sign", "fever")])


@pytest.mark.parametrize("empty", [{"spans": []}, {"label": None}, {"entities": [], "spans": None}])
def test_a_record_may_say_that_it_has_no_entity(empty: dict[str, object]) -> None:
    (document,) = documents(read_jsonl, unit(as_json({"text": "No fever."} | empty)))

    assert document.entities == ()


def test_a_document_of_spacy_has_entities_and_its_groups_of_spans_are_counted() -> None:
    record = {"text": "No fever.", "ents": [SPAN], "sents": [{"start": 0, "end": 9}], "tokens": []}
    groups = {"spans": {"sc": [SPAN]}}
    plain, grouped = documents(read_jsonl, unit(f"{as_json(record)}\n{as_json(record | groups)}"))

    assert mentions(plain) == mentions(grouped) == [("Sign", "fever")]
    assert (plain.left_out, grouped.left_out) == ({}, {"documents with span groups": 1})


def test_a_line_may_be_spacys_training_form() -> None:
    line = ["No fever.", {"entities": [[3, 8, "Sign"]], "cats": {}}]
    (document,) = documents(read_jsonl, unit(as_json(line)))

    assert (document.id, document.text, mentions(document)) == ("one-1", "No fever.", [("Sign", "fever")])


def test_the_export_of_an_early_doccano_has_annotations() -> None:
    annotation = {"label": "Sign", "start_offset": 3, "end_offset": 8, "user": 1}
    (document,) = documents(read_jsonl, unit(as_json({"id": 7, "text": "No fever.", "annotations": [annotation]})))

    assert (document.id, mentions(document)) == ("7", [("Sign", "fever")])


def test_relations_of_json_lines_name_ids_or_places() -> None:
    spans = [{"id": 1, "start": 3, "end": 8, "label": "Sign"}, {"id": 2, "start": 12, "end": 19, "label": "Drug"}]
    by_id = {"type": "for", "from_id": 2, "to_id": 1}
    by_place = {"label": "of", "head": 3, "child": 1, "head_span": {"start": 12, "end": 19}} | {
        "child_span": {"start": 3, "end": 8}
    }
    record = {"id": "n", "text": "No fever on aspirin.", "spans": spans, "relations": [by_id, by_place]}
    (document,) = documents(read_jsonl, unit(as_json(record | {"meta": {"patient": 3}})))

    assert (document.id, document.patient) == ("n", "3")
    assert [(one.type, one.head, one.tail) for one in document.relations] == [("for", "T2", "T1"), ("of", "T2", "T1")]


@pytest.mark.parametrize("answer", ["reject", "ignore"])
def test_records_that_were_not_accepted_are_left_out_whatever_else_they_hold(answer: str) -> None:
    record = {"text": "No fever.", "spans": [[3, 8, "Sign"]]}
    lines = [record | {"answer": "accept"}, {"answer": answer}, record | {"answer": None}, record]
    found = list(read_jsonl(unit("\n".join(map(as_json, lines)))))

    assert [getattr(each, "id", None) for each in found] == ["one-1", None, "one-3", "one-4"]
    assert found[1] == LeftOut(what="records that were rejected or ignored")


def test_a_record_that_was_accepted_without_spans_has_no_entities() -> None:
    (document,) = documents(read_jsonl, unit(as_json({"text": "No fever.", "answer": "accept"})))

    assert document.entities == ()


def told_unread(*records: Mapping[str, object]) -> list[dict[str, int]]:
    """What is counted of each record, without the beginning that all sentences have."""
    begin = "records with a field that is not read, "
    found = documents(read_jsonl, unit("\n".join(as_json({"text": "No fever today.", **each}) for each in records)))
    assert all(sentence.startswith(begin) for document in found for sentence in document.left_out)
    return [{key.removeprefix(begin): count for key, count in document.left_out.items()} for document in found]


def test_records_with_relations_under_another_name_are_counted_by_it() -> None:
    relations: dict[str, object] = {
        "rels": [{"head": 1, "tail": 1, "type": "of"}],
        "Relations": {"of": [1, 1]},
        "relations": [],
    }
    empty: dict[str, object] = {"rels": [], "Relations": {}, "ward": "x", "links": None, "score": 3}

    assert told_unread({"label": [], **relations}, {"label": [], **empty}, {"spans": [], "rels": [1]}) == [
        {'"Relations"': 1, '"rels"': 1},
        {},
        {'"rels"': 1},
    ]


def test_fields_in_which_these_tools_keep_no_spans_are_not_counted() -> None:
    doccano: dict[str, object] = {"id": 1, "label": [], "comments": ["x"], "Comments": ["x"], "meta": {"ward": [1]}}
    prodigy: dict[str, object] = {
        "spans": [],
        "tokens": [SPAN],
        "options": [{"id": 1}],
        "accept": [1],
        "config": {"x": 1},
        "answer": None,
    }
    spacy = {"ents": [], "sents": [SPAN], "cats": {"x": 1}, "words": ["x"], "heads": [1], "deps": ["x"], "tokens": [1]}

    assert told_unread(doccano, prodigy, spacy) == [{}, {}, {}]


def test_the_name_of_such_a_field_is_not_told_where_it_may_be_text() -> None:
    field = {"fever today": [1], "Marfan " * 9: [1], "fever": [1]}

    assert told_unread({"spans": [SPAN], **field}, {"spans": [], **field}) == [
        dict.fromkeys((f"a name of {length} characters (first in one.txt)" for length in (5, 11, 63)), 1),
        {'"fever"': 1} | dict.fromkeys((f"a name of {length} characters (first in one.txt)" for length in (11, 63)), 1),
    ]


def test_only_so_many_names_of_such_fields_are_told() -> None:
    told = told_unread(*({"spans": [], f"field{number}": [1]} for number in range(103)))

    assert [*told[100], *told[101], *told[102]] == ['"field100"', "others", "others"]


MALFORMED: dict[str, tuple[object, str]] = {
    "no text": ({"Marfan": 1}, "one.txt, line 1.text: expected a string, got null"),
    "no answer of Prodigy's": (
        {"text": "x", "answer": "Marfan"},
        "one.txt, line 1.answer: expected one of accept, reject, ignore, got another value",
    ),
    "an answer in a list": (
        {"text": "x", "answer": ["reject"]},
        "one.txt, line 1.answer: expected one of accept, reject, ignore, got another value",
    ),
    "two kinds of spans": (
        {"text": "Marfan", "spans": [], "label": []},
        f"one.txt, line 1: expected spans in one of {NAMES}, got 2 of them",
    ),
    "short span": (
        {"text": "Marfan", "spans": [[0, 1]]},
        "spans[0]: expected start, end and type",
    ),
    "relation to nothing": (
        {"text": "Marfan", "spans": [], "relations": [{"head": "Marfan", "tail": "x", "type": "y"}]},
        "relations[0]: expected ids or spans",
    ),
    "spans under another name": (
        {"text": "Marfan", "Marfan": [SPAN], "meta": {"spans": []}},
        f"one.txt, line 1: expected spans in one of {NAMES}, got none of them",
    ),
    "the number of a label": (
        {"text": "Marfan", "annotations": [{"label": 2, "start_offset": 0, "end_offset": 6}]},
        "one.txt, line 1.annotations[0].label: expected the name of a label, got its number",
    ),
    "a text alone": (["Marfan"], "one.txt, line 1: expected an object, or a list of a text and an object"),
    "a list of training forms": ([["Marfan", {"entities": []}]], "line 1: expected an object, or a list of a text"),
    "a training form without spans": (["Marfan", {"Marfan": []}], f"line 1[1]: expected spans in one of {NAMES}"),
}


@pytest.mark.parametrize(("value", "expected"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_line_is_told_by_its_path_and_never_quoted(value: object, expected: str) -> None:
    (told,) = problems(read_jsonl, unit(as_json(value)))

    assert expected in told

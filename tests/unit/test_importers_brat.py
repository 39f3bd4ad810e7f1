"""BRAT standoff: what each kind of line becomes, and how a malformed one is told."""

from __future__ import annotations

import pytest

from site_agent.trainer.extraction.importers.brat import read_brat
from site_agent.trainer.extraction.importers.source import SourceDocument, SourceRelation
from tests.fakes.importing import CANARY, documents, mentions, problems, unit

TEXT = "No fever or rash.\nGiven aspirin 75 mg for Marfan pain."


def read(annotations: str, text: str = TEXT) -> SourceDocument:
    (document,) = documents(read_brat, unit(text, annotations, "north.txt"))
    return document


def test_entities_keep_type_and_place_and_the_document_is_named_as_its_file() -> None:
    document = read("T1\tSign 3 8\tfever\nT2\tDrug 24 31\taspirin\n")

    assert document.id == "north"
    assert mentions(document) == [("Sign", "fever"), ("Drug", "aspirin")]


def test_nested_and_overlapping_entities_are_all_kept() -> None:
    document = read("T1\tSign 3 16\tfever or rash\nT2\tSign 3 8\tfever\nT3\tOther 6 11\ter or\n")

    assert mentions(document) == [("Sign", "fever or rash"), ("Sign", "fever"), ("Other", "er or")]


def test_stretches_are_covered_by_one_span_and_their_number_is_known() -> None:
    document = read("T1\tSign 0 2;12 16\tNo rash\n")

    assert mentions(document) == [("Sign", "No fever or rash")]
    assert document.entities[0].parts == 2


def test_an_entity_over_a_line_end_may_be_quoted_with_a_space() -> None:
    assert mentions(read("T1\tSign 12 23\trash. Given\n")) == [("Sign", "rash.\nGiven")]


def test_a_relation_runs_from_its_first_argument_to_its_second() -> None:
    document = read("T1\tDrug 24 31\taspirin\nT2\tDose 32 37\t75 mg\nR1\thas_dose Arg1:T1 Arg2:T2\t\n")

    assert document.relations == (SourceRelation(type="has_dose", head="T1", tail="T2"),)


def test_an_event_is_its_trigger_with_a_relation_for_each_role() -> None:
    document = read(
        "T1\tGive 18 23\tGiven\nT2\tDrug 24 31\taspirin\nT3\tDose 32 37\t75 mg\n"
        "E1\tGive:T1 Theme:T2 Theme2:T3 \nR1\tafter Arg1:T2 Arg2:E1\n"
    )

    assert [(one.type, one.head, one.tail) for one in document.relations] == [
        ("Theme", "T1", "T2"),
        ("Theme", "T1", "T3"),
        ("after", "T2", "T1"),
    ]


def test_attributes_belong_to_their_entity_or_to_the_trigger_of_their_event() -> None:
    document = read(
        "T1\tSign 3 8\tfever\nE1\tSign:T1\nA1\tNegated T1\nA2\tCertainty E1 very likely\nM1\tOld T1\nA3\tWeak R1\n"
    )

    assert document.entities[0].attributes == (("Negated", ""), ("Certainty", "very likely"), ("Old", ""))
    assert document.left_out == {"attributes of relations": 1}


def test_equivalences_normalisations_and_comments_are_left_out_and_counted() -> None:
    document = read("T1\tSign 3 8\tfever\n*\tEquiv T1 T1\nN1\tReference T1 MeSH:D1\n#1\tAnnotatorNotes T1\tMarfan\n\n")

    assert document.left_out == {"equivalences": 1, "normalisations": 1, "comments": 1}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("Fièvre 😷, aspirin", "T1\tDrug 10 17\taspirin"),
        ("Fièvre 😷, aspirin", "T1\tDrug 11 18\taspirin"),
        ("Fièvre 😷, aspirin", "T1\tDrug 14 21\taspirin"),
        ("No fever.\r\n\r\nOn aspirin", "T1\tDrug 16 23\taspirin"),
        ("No fever.\r\n\r\nOn aspirin", "T1\tDrug 14 21\taspirin"),
    ],
    ids=["characters", "UTF-16 units", "UTF-8 bytes", "characters before CRLF", "a line end as one character"],
)
def test_offsets_are_understood_in_whatever_unit_the_words_stand_there(text: str, line: str) -> None:
    assert mentions(read(line, text)) == [("Drug", "aspirin")]


MALFORMED = {
    "no line of BRAT": ("Marfan\n", "line 1: expected a line of BRAT standoff"),
    "no offsets": ("T1\tSign\tMarfan\n", "line 1: expected a line of BRAT standoff"),
    "other words": ("T1\tSign 3 8\tMarfan\n", "line 1: expected what the text holds from 3 to 8"),
    "beyond the text": ("T1\tSign 50 99\tMarfan\n", "line 1: expected offsets up to 54, got 50 and 99"),
    "end before start": ("T1\tSign 8 3\tMarfan\n", "line 1: expected 0 <= start < end, got 8 and 3"),
    "huge": ("T1\tSign 3 9999999999\tMarfan\n", "got 3 and a number beyond a billion"),
    "id twice": ("T1\tSign 3 8\tfever\nT1\tSign 3 8\tfever\n", "line 2: expected every id once"),
    "event id twice": ("T1\tSign 3 8\tfever\nE1\tSign:T1\nE1\tSign:T1\n", "line 3: expected every id once"),
    "relation to nothing": (
        "T1\tSign 3 8\tfever\nR1\tMarfan Arg1:T1 Arg2:T9\n",
        "line 2: expected the id of an entity",
    ),
    "event of nothing": ("E1\tSign:Marfan\n", "line 1: expected the id of an entity"),
    "attribute of nothing": ("A1\tMarfan T7\n", "line 1: expected the id of an entity"),
    "bad UTF-8": (b"T1\tMarfan\xff", "expected UTF-8, got something else at byte 10"),
}


@pytest.mark.parametrize(("annotations", "expected"), MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_annotations_are_told_by_line_and_never_quoted(annotations: str | bytes, expected: str) -> None:
    (told,) = problems(read_brat, unit(TEXT, annotations, "north.txt"))

    assert told.startswith("north.ann")
    assert expected in told


def test_a_text_that_is_no_utf8_is_told_by_its_byte() -> None:
    told = problems(read_brat, unit(f"{CANARY}\xe9".encode("latin-1")))

    assert told == ["one.txt: expected UTF-8, got something else at byte 7"]

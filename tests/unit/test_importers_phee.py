"""PHEE's JSON: which spans become entities, which relations hold between them, and how malformed lines are told."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

import pytest

from site_agent.trainer.extraction.importers import phee
from site_agent.trainer.extraction.importers.phee import read_phee
from site_agent.trainer.extraction.importers.source import SourceDocument
from tests.fakes.importing import documents, mentions, problems, unit

TEXT = "A man on oral aspirin and iron for pain may have had a severe rash, mild itch."


def span(*words: str, **parts: object) -> dict[str, object]:
    """An argument of one stretch of the text for each of these words."""
    return {"text": [[one] for one in words], "start": [[TEXT.index(one)] for one in words], "entity_id": []} | parts


def event(name: str = "Adverse_event", **arguments: object) -> dict[str, object]:
    return {"event_id": "E1", "event_type": name, "Trigger": span("had")} | arguments


def record(*events: Mapping[str, object], **changes: object) -> str:
    given = {"id": "1_2", "context": TEXT, "is_mult_event": False, "annotations": [{"events": list(events)}]}
    return json.dumps(given | changes)


def read(*events: Mapping[str, object]) -> SourceDocument:
    (document,) = documents(read_phee, unit(record(*events)))
    return document


def related(document: SourceDocument) -> set[tuple[str, str, str]]:
    words = {one.id: document.text[one.start : one.end] for one in document.entities}
    return {(one.type, words[one.head], words[one.tail]) for one in document.relations}


TREATMENT = span("oral aspirin and iron for pain", Drug=span("aspirin", "iron"), Disorder=span("pain"))
EFFECT = span("rash", "itch")


def test_each_span_is_an_entity_of_what_it_is_said_of_and_its_role() -> None:
    subject = span("A man", Gender=span("man"))
    document = read(event(Subject=subject, Treatment=TREATMENT, Effect=EFFECT, Speculated=span("may", value=True)))

    assert (document.id, document.text, document.patient) == ("1_2", TEXT, None)
    assert +Counter(document.left_out) == {}
    assert sorted(mentions(document)) == [
        ("Adverse_event.Effect", "itch"),
        ("Adverse_event.Effect", "rash"),
        ("Adverse_event.Speculated", "may"),
        ("Adverse_event.Subject", "A man"),
        ("Adverse_event.Treatment", "oral aspirin and iron for pain"),
        ("Adverse_event.Trigger", "had"),
        ("Subject.Gender", "man"),
        ("Treatment.Disorder", "pain"),
        ("Treatment.Drug", "aspirin"),
        ("Treatment.Drug", "iron"),
    ]


def test_relations_run_from_every_drug_to_effects_and_other_parts() -> None:
    assert related(read(event(Treatment=TREATMENT, Effect=EFFECT))) == {
        ("Adverse_event", "aspirin", "rash"),
        ("Adverse_event", "aspirin", "itch"),
        ("Adverse_event", "iron", "rash"),
        ("Adverse_event", "iron", "itch"),
        ("Treatment.Disorder", "aspirin", "pain"),
        ("Treatment.Disorder", "iron", "pain"),
    }


def test_a_treatment_without_a_drug_stands_for_itself_and_so_does_a_subject() -> None:
    treatment, subject = span("oral", Disorder=span("pain")), span("A man", Gender=span("man"))

    assert related(read(event("Potential_therapeutic_event", Treatment=treatment, Subject=subject))) == {
        ("Treatment.Disorder", "oral", "pain"),
        ("Subject.Gender", "A man", "man"),
    }


def test_what_is_said_of_an_event_belongs_to_its_effects_and_levels_are_counted() -> None:
    document = read(event(Effect=span("rash"), Severity=span("severe", value="High"), Speculated=span("may")))

    assert related(document) == {
        ("Adverse_event.Severity", "rash", "severe"),
        ("Adverse_event.Speculated", "rash", "may"),
    }
    assert document.left_out == {"levels of severity": 1}


@pytest.mark.parametrize(("value", "name"), [(True, "Adverse_event=Negated"), (False, "Adverse_event")])
def test_an_event_that_is_negated_relates_under_another_name(value: bool, name: str) -> None:
    treatment = span("iron", Drug=span("iron"))
    document = read(event(Treatment=treatment, Effect=span("rash"), Negated=span("may", value=value)))

    assert related(document) == {(name, "iron", "rash"), ("Adverse_event.Negated", "rash", "may")}


def test_what_a_denied_event_treats_is_denied_and_its_doses_are_not() -> None:
    treatment = span("iron", Drug=span("iron"), Disorder=span("pain"), Route=span("oral"))
    denied = event("Potential_therapeutic_event", Treatment=treatment, Negated=span("may", value=True))
    said = event("Potential_therapeutic_event", Treatment=treatment)

    assert related(read(denied)) == {
        ("Treatment.Disorder=Negated", "iron", "pain"),
        ("Treatment.Route", "iron", "oral"),
    }
    assert {name for name, *_ in related(read(said))} == {"Treatment.Disorder", "Treatment.Route"}


DRUG_AND_EFFECT = {"Treatment": span("iron", Drug=span("iron")), "Effect": span("rash")}
TREATS = {"Treatment": span("iron", Disorder=span("pain"))}


@pytest.mark.parametrize(
    ("arguments", "lost"),
    [
        ({"Negated": span(value=True)}, ["Negated"]),
        ({"Negated": span(value=True), "Effect": span("rash")}, ["Negated"]),
        ({"Negated": span("may", value=True)}, []),
        ({"Negated": span(value=True)} | DRUG_AND_EFFECT, []),
        ({"Negated": span(value=True)} | TREATS, []),
        ({"Negated": span(value=False)}, []),
        ({"Speculated": span(value=True)} | DRUG_AND_EFFECT, ["Speculated"]),
        ({"Speculated": span("may", value=True)}, []),
        ({"Speculated": span(value=False), "Negated": None}, []),
        ({"Speculated": span(value=True), "Negated": span(value=True)} | TREATS, ["Speculated"]),
    ],
)
def test_a_true_value_that_nothing_else_tells_is_counted(arguments: dict[str, object], lost: list[str]) -> None:
    counted = +Counter(read(event("Adverse_event", **arguments)).left_out)

    assert counted == {f"true values of {cue} that neither words nor a relation tell": 1 for cue in lost}


def test_what_two_events_share_is_one_entity_and_stretches_are_covered() -> None:
    apart = {"text": [["severe", "itch"]], "start": [[TEXT.index("severe"), TEXT.index("itch")]], "entity_id": ["T1"]}
    document = read(event(Effect=apart), event(Effect=apart, event_id="E2"))

    assert mentions(document)[1:] == [("Adverse_event.Effect", "severe rash, mild itch")]
    assert document.entities[1].parts == 2


def test_drugs_of_a_combination_are_entities_and_the_combination_is_counted() -> None:
    combined = {"event_id": "E2", "event_type": "Combination", "Trigger": span("and"), "Drug": span("aspirin", "iron")}
    document = read(event(Treatment=span(Combination=[combined])))

    assert mentions(document)[1:] == [
        ("Combination.Trigger", "and"),
        ("Combination.Drug", "aspirin"),
        ("Combination.Drug", "iron"),
    ]
    assert document.relations == ()
    assert document.left_out["which drugs are combined"] == 1


MARFAN = {"text": [["Marfan"]], "start": [[0]], "entity_id": ["T1"]}
MALFORMED: dict[str, tuple[str, str]] = {
    "no text": (record(context=None), "one.txt, line 1.context: expected a string, got null"),
    "no id": (record(id=""), "one.txt, line 1.id: expected a name"),
    "no annotation": (record(annotations=None), "line 1: expected one annotation a sentence, got 0"),
    "two annotations": (record(annotations=[{"events": []}] * 2), "expected one annotation a sentence, got 2"),
    "no events": (record(annotations=[{"Marfan": []}]), "line 1.annotations[0]: expected events, got none"),
    "another event": (record(event("Marfan")), "events[0]: event_type: expected one of Adverse_event, Potential_th"),
    "another argument": (record(event(Marfan=MARFAN)), "events[0]: expected the fields event_id, event_type, Trigger"),
    "another part": (record(event(Effect=MARFAN | {"Drug": MARFAN})), "Effect: expected the fields text, start, entit"),
    "another word": (record(event(Effect=MARFAN)), "Effect.text[0]: expected what the text holds from 0 to 6"),
    "no start": (record(event(Effect=MARFAN | {"start": []})), "events[0].Effect: expected 1 starts, got 0"),
    "a start too many": (record(event(Effect=MARFAN | {"start": [[0, 9]]})), "start[0]: expected 1 starts, got 2"),
    "no words": (record(event(Effect=MARFAN | {"text": [[]], "start": [[]]})), "text[0]: expected offsets, got none"),
}


@pytest.mark.parametrize(("line", "expected"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_sentence_is_told_by_its_path_and_never_quoted(line: str, expected: str) -> None:
    (told,) = problems(read_phee, unit(line))

    assert expected in told


def test_a_malformed_sentence_does_not_lose_the_next_one() -> None:
    of = unit("{\n" + record(event()))

    assert problems(read_phee, of) == ["one.txt, line 1: expected JSON, got a syntax error at line 1, character 2"]
    assert len(list(read_phee(of))) == 2


def test_more_relations_than_can_be_meant_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phee, "MAX_RELATIONS", 3)
    (told,) = problems(read_phee, unit(record(event(Treatment=TREATMENT, Effect=EFFECT))))

    assert told == "one.txt, line 1.annotations[0].events[0]: expected at most 3 relations, got more"

"""BioC, Label Studio and FHIR: what each becomes, and how what is malformed is told."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

import pytest

from site_agent.trainer.extraction.importers.bioc import read_bioc_json
from site_agent.trainer.extraction.importers.bioc_xml import read_bioc_xml
from site_agent.trainer.extraction.importers.fhir import read_fhir
from site_agent.trainer.extraction.importers.jsonl_spans import read_jsonl
from site_agent.trainer.extraction.importers.label_studio import read_label_studio
from site_agent.trainer.extraction.importers.source import LeftOut, Reader, SourceRelation
from tests.fakes.importing import documents, mentions, problems, unit

# BioC


BIOC = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE collection SYSTEM "BioC.dtd">
<collection><source>x</source><date></date><key></key>
<document><id>7</id><infon key="a">b</infon>
<passage><infon key="type">title</infon><offset>0</offset><text>Rash &amp; lithium.</text>
<annotation id="1"><infon key="type">Disease</infon><infon key="MESH">D2|D3</infon>
<location offset="0" length="4"/><text>Rash</text></annotation></passage>
<passage><offset>40</offset>
<sentence><offset>40</offset><text>Lithium gave hives.</text>
<annotation id="2"><infon key="type">Chemical</infon><infon key="MESH">D1</infon>
<location offset="40" length="7"/><text>Lithium</text></annotation></sentence>
<sentence><offset>60</offset><text>Itching, too.</text>
<annotation id="3"><infon key="type">Disease</infon>
<location offset="60" length="7"/><location offset="69" length="3"/><text>Itching too</text></annotation></sentence>
</passage>
<relation id="R1"><infon key="type">causes</infon><node refid="2" role="a"/><node refid="3" role="b"/></relation>
<relation id="R2"><infon key="relation">CID</infon><infon key="Chemical">D1</infon>
<infon key="Disease">D2</infon></relation>
<relation id="R3"><infon key="type">three</infon><node refid="1"/><node refid="2"/><node refid="3"/></relation>
<relation id="R4"><infon key="type">on</infon><node refid="R1"/><node refid="3"/></relation>
</document></collection>"""


def bioc_passage(**changes: object) -> dict[str, object]:
    annotation = {
        "id": "1",
        "infons": {"type": "Disease"},
        "text": "Rash",
        "locations": [{"offset": 5, "length": 4}],
    } | changes
    return {"offset": 5, "text": "Rash & lithium.", "annotations": [annotation]}


def as_json(value: object) -> str:
    return json.dumps(value)


def test_a_bioc_document_is_its_passages_and_sentences_with_a_line_end_between_two() -> None:
    (document,) = documents(read_bioc_xml, unit(BIOC))

    assert (document.id, document.text) == ("7", "Rash & lithium.\nLithium gave hives.\nItching, too.")
    assert mentions(document) == [("Disease", "Rash"), ("Chemical", "Lithium"), ("Disease", "Itching, too")]
    assert [one.concepts for one in document.entities] == [{"D2", "D3"}, {"D1"}, set()]


def test_bioc_relations_are_of_two_annotations_or_of_two_concepts() -> None:
    (document,) = documents(read_bioc_xml, unit(BIOC))

    assert document.relations == (SourceRelation(type="causes", head="T2", tail="T3"),)
    assert document.concept_relations == (SourceRelation(type="CID", head="D1", tail="D2"),)
    assert document.left_out == {"relations of other than two entities": 2}


@pytest.mark.parametrize("around", ["[%s]", '{"documents": [%s]}', "%s", '{"PubTator3": [%s]}'])
def test_bioc_json_may_be_a_collection_a_list_or_one_document(around: str) -> None:
    one = as_json({"id": 9, "passages": [bioc_passage()]})
    (document,) = documents(read_bioc_json, unit(around % one))

    assert (document.id, mentions(document)) == ("9", [("Disease", "Rash")])


def test_an_entity_of_xml_that_grows_is_refused() -> None:
    bomb = '<!DOCTYPE c [<!ENTITY a "Marfan"><!ENTITY b "&a;&a;&a;&a;">]><c>&b;</c>'

    assert problems(read_bioc_xml, unit(bomb)) == ["one.txt: expected XML without entities of its own, got one"]


def test_an_entity_of_a_file_elsewhere_is_neither_read_nor_passed_over() -> None:
    named = BIOC.replace("Rash &amp;", "Rash &Marfan;")

    assert problems(read_bioc_xml, unit(named)) == ["one.txt: expected XML without entities of its own, got one"]
    system = '<!DOCTYPE c [<!ENTITY a SYSTEM "file:///etc/passwd">]><c>&a;</c>'
    assert problems(read_bioc_xml, unit(system)) == ["one.txt: expected XML without entities of its own, got one"]


def test_xml_too_deep_is_refused() -> None:
    assert "16 deep" in problems(read_bioc_xml, unit("<a>" * 40))[0]


def test_documents_before_a_syntax_error_are_read() -> None:
    cut = unit(BIOC.removesuffix("</collection>"))

    assert problems(read_bioc_xml, cut) == ["one.txt, line 21: expected XML, got a syntax error or an unfinished file"]
    assert len(list(read_bioc_xml(cut))) == 2


# Label Studio


TEXT = "😷 No fever on aspirin."


def region(start: int, end: int, words: str | None, labels: list[str], region_id: str) -> dict[str, object]:
    value: dict[str, object] = {"start": start, "end": end, "labels": labels} | (
        {} if words is None else {"text": words}
    )
    return {"id": region_id, "type": "labels", "from_name": "label", "to_name": "text", "value": value}


FEVER, ASPIRIN = region(6, 11, "fever", ["Sign"], "a"), region(15, 22, "aspirin", ["Drug", "Brand"], "b")


def task(*items: Mapping[str, object], **changes: object) -> dict[str, object]:
    return {"id": 5, "data": {"text": TEXT}, "annotations": [{"result": list(items)}]} | changes


def export(*tasks: dict[str, object]) -> str:
    return as_json(list(tasks))


def test_regions_of_label_studio_count_utf16_units_and_each_label_is_an_entity() -> None:
    (document,) = documents(read_label_studio, unit(export(task(FEVER, ASPIRIN))))

    assert document.id == "5"
    assert mentions(document) == [("Sign", "fever"), ("Drug", "aspirin"), ("Brand", "aspirin")]


def test_words_quoted_to_the_letter_go_before_words_that_differ_in_white_space() -> None:
    tasks = export(task(region(3, 4, " ", ["Sign"], "a"), data={"text": "😷a \n"}))

    assert mentions(documents(read_label_studio, unit(tasks))[0]) == [("Sign", " ")]


def test_document_and_patient_come_from_the_data_of_a_task() -> None:
    (document,) = documents(read_label_studio, unit(export(task(data={"text": TEXT, "document": "n-1", "patient": 7}))))

    assert (document.id, document.patient) == ("n-1", "7")


def test_choices_of_a_region_are_its_attributes_and_those_of_a_text_are_left_out() -> None:
    chosen = FEVER | {"type": "choices", "from_name": "sure", "value": {"start": 6, "end": 11, "choices": ["low"]}}
    about_all = {"type": "choices", "from_name": "kind", "value": {"choices": ["letter"]}}
    (document,) = documents(read_label_studio, unit(export(task(FEVER, chosen, about_all))))

    assert document.entities[0].attributes == (("sure", "low"),)
    assert document.left_out == {"answers about a whole text, and other items": 1}


def test_choices_of_a_region_without_a_label_are_counted() -> None:
    chosen = {"id": "z", "type": "choices", "from_name": "sure", "value": {"start": 6, "end": 11}}
    unlabelled = region(6, 11, "fever", [], "z")
    several = chosen | {"value": {"start": 6, "end": 11, "choices": ["low", "past"]}}
    (document,) = documents(read_label_studio, unit(export(task(ASPIRIN, unlabelled, several))))

    assert document.left_out == {"choices of regions without a label": 2}


def test_relations_of_label_studio_have_a_direction_and_labels() -> None:
    def relation(direction: str, *labels: str) -> dict[str, object]:
        return {"type": "relation", "from_id": "a", "to_id": "b", "direction": direction, "labels": list(labels)}

    items = (FEVER, ASPIRIN, relation("right", "x"), relation("left"), relation("bi", "y"))
    (document,) = documents(read_label_studio, unit(export(task(*items))))

    assert document.relations == (
        SourceRelation(type="x", head="T1", tail="T2"),
        SourceRelation(type="unlabelled", head="T2", tail="T1"),
    )
    assert document.left_out == {"relations without a direction": 1}


def test_a_task_is_read_from_its_one_finished_annotation() -> None:
    cancelled = {"was_cancelled": True, "result": [ASPIRIN]}
    (document,) = documents(read_label_studio, unit(export(task(annotations=[cancelled, {"result": [FEVER]}]))))

    assert mentions(document) == [("Sign", "fever")]
    assert list(read_label_studio(unit(export(task(annotations=[cancelled]))))) == [
        LeftOut(what="tasks that nobody annotated")
    ]


# FHIR


def attachment(kind: str, content: str) -> dict[str, object]:
    return {"attachment": {"contentType": kind, "data": base64.b64encode(content.encode()).decode()}}


def resource(**changes: object) -> dict[str, object]:
    content = [attachment("text/plain; charset=UTF-8", "No fever."), attachment("text/x-brat", "T1\tSign 3 8\tfever\n")]
    return {
        "resourceType": "DocumentReference",
        "id": "d-1",
        "status": "current",
        "subject": {"reference": "Patient/7"},
        "content": content,
    } | changes


def test_a_document_reference_has_its_text_its_annotations_and_its_patient() -> None:
    (document,) = documents(read_fhir, unit(json.dumps(resource(), indent=1)))

    assert (document.id, document.patient, document.text) == ("d-1", "Patient/7", "No fever.")
    assert mentions(document) == [("Sign", "fever")]


def test_a_bundle_and_lines_hold_many_and_what_is_not_meant_is_counted() -> None:
    resources = [resource(), {"resourceType": "Patient"}, resource(status="superseded")]
    bundle = as_json({"resourceType": "Bundle", "entry": [{"resource": each} for each in resources]})
    lines = "\n".join(as_json(each) for each in resources) + "\n"

    for content in (bundle, lines):
        found = list(read_fhir(unit(content)))
        assert getattr(found[0], "id", None) == "d-1"
        assert found[1:] == [
            LeftOut(what="resources that are no DocumentReference"),
            LeftOut(what="documents that are not current"),
        ]


# What is malformed


MALFORMED: dict[str, tuple[Reader, object, str]] = {
    "BioC: no id": (read_bioc_json, {"passages": []}, "one.txt.id: expected a name or a number, got null"),
    "BioC: offsets shrink": (
        read_bioc_json,
        {"id": "1", "passages": [{"offset": 5, "text": "Marfan"}, {"offset": 5, "text": "Marfan"}]},
        "one.txt.passages[1]: expected offsets that grow",
    ),
    "BioC: no type": (
        read_bioc_json,
        {"id": "1", "passages": [bioc_passage(infons={})]},
        "infons.type: expected a name",
    ),
    "BioC: no place": (read_bioc_json, {"id": "1", "passages": [bioc_passage(locations=[])]}, "expected a location"),
    "BioC: before the text": (
        read_bioc_json,
        {"id": "1", "passages": [bioc_passage(locations=[{"offset": 0, "length": 4}])]},
        "annotations[0]: expected a location in a text, got one before the first",
    ),
    "BioC: other words": (
        read_bioc_json,
        {"id": "1", "passages": [bioc_passage(text="Marfan")]},
        "annotations[0]: expected what the text holds from 0 to 4",
    ),
    "BioC: relation to nothing": (
        read_bioc_json,
        {"id": "1", "relations": [{"infons": {"type": "x"}, "nodes": [{"refid": "Marfan"}, {"refid": "1"}]}]},
        "relations[0]: expected ids that one annotation of this document has",
    ),
    "Label Studio: two answers": (
        read_label_studio,
        [task(annotations=[{"result": []}, {"result": []}])],
        "one.txt[0].annotations[0]: expected one finished annotation a task, got 2",
    ),
    "Label Studio: JSON-MIN": (
        read_label_studio,
        [{"id": 1, "text": "Marfan", "label": [{"start": 0, "end": 6, "text": "Marfan", "labels": ["Sign"]}]}],
        "one.txt[0]: expected annotations, as in the JSON export, got none, as in JSON-MIN",
    ),
    "Label Studio: no text": (
        read_label_studio,
        [task(data={"x": "Marfan"})],
        "data.text: expected a string, got null",
    ),
    "Label Studio: HTML": (read_label_studio, [task({"type": "hypertextlabels"})], "expected labels of plain text"),
    "Label Studio: other words": (
        read_label_studio,
        [task(region(6, 11, "Marfan", ["Sign"], "a"))],
        "result[0]: expected what the text holds from 6 to 11",
    ),
    "Label Studio: relation to nothing": (
        read_label_studio,
        [task({"type": "relation", "from_id": "Marfan", "to_id": "a"})],
        "result[0]: expected the ids of two regions",
    ),
    "FHIR: no annotations": (
        read_fhir,
        resource(content=[attachment("text/plain", "Marfan")]),
        "content: expected an attachment text/x-brat, got none",
    ),
    "FHIR: two texts": (
        read_fhir,
        resource(content=[attachment("text/plain", "Marfan"), attachment("text/plain", "Marfan")]),
        "content[1].attachment: expected one attachment text/plain, got two",
    ),
    "FHIR: no base64": (
        read_fhir,
        resource(content=[{"attachment": {"contentType": "text/plain", "data": "Marfan!"}}]),
        "content[0].attachment.data: expected base64",
    ),
    "FHIR: other words": (
        read_fhir,
        resource(content=[attachment("text/plain", "Rash"), attachment("text/x-brat", "T1\tx 0 4\tMarfan")]),
        "one.txt, line 1, text/x-brat, line 1: expected what the text holds from 0 to 4",
    ),
    "BioC: neither a collection nor a document": (
        read_bioc_json,
        {"Marfan": "Marfan", "source": "x"},
        "one.txt: expected a collection (documents) or a document, got another object",
    ),
    "BioC: a list of something else": (read_bioc_json, {"Marfan": [7]}, "one.txt: expected a collection (documents)"),
    "BioC: another object in a list": (
        read_bioc_json,
        {"Marfan": [{"Marfan": 1}]},
        "one.txt[0]: expected a collection (documents) or a document",
    ),
}


@pytest.mark.parametrize(("read", "value", "expected"), MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_malformed_is_told_by_its_path_and_never_quoted(read: Reader, value: object, expected: str) -> None:
    (told,) = problems(read, unit(as_json(value)))

    assert expected in told


@pytest.mark.parametrize("read", [read_bioc_json, read_label_studio, read_fhir, read_jsonl])
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b'{"Marfan": ', "expected JSON, got a syntax error at line 1, character 12"),
        (b'"Marfan\xff"', "expected UTF-8, got something else at byte 8"),
        (b"[" * 100_000, "nested too deep"),
    ],
)
def test_what_is_no_json_is_told_by_its_place(read: Reader, content: bytes, expected: str) -> None:
    (told,) = problems(read, unit(content))

    assert expected in told

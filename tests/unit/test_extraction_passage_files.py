"""Annotated passages from JSONL files: what is read, and how what is wrong is reported. Uses no corpus."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import InputInvalidError, Reason
from site_agent.trainer.extraction import passage_files
from site_agent.trainer.extraction.passage_files import read_passage_sets, read_passages
from site_agent.trainer.extraction.passages import Entity, Passage, Relation, annotated_types

TEXT = "Marfan took aspirin for chest pain."
Record = dict[str, object]


def record(**changes: object) -> Record:
    """A well-formed record; a change to None leaves the field out."""
    fields: Record = {
        "id": "p-1",
        "text": TEXT,
        "entities": [
            {"id": "T1", "type": "drug", "start": 12, "end": 19, "text": "aspirin"},
            {"id": "T2", "type": "problem", "start": 24, "end": 34, "text": "chest pain"},
        ],
        "relations": [{"type": "treats", "head": "T1", "tail": "T2"}],
    } | changes
    return {name: value for name, value in fields.items() if value is not None}


def entity(**changes: object) -> Record:
    return {"id": "T1", "type": "drug", "start": 12, "end": 19, "text": "aspirin"} | changes


def line(value: object) -> bytes:
    return json.dumps(value).encode() + b"\n"


def write(folder: Path, content: bytes, name: str = "train.jsonl") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def message(*paths: Path) -> str:
    with pytest.raises(InputInvalidError) as caught:
        read_passages(paths)
    assert caught.value.reason is Reason.NOTES_INVALID
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return caught.value.message


def test_a_passage_is_read_with_its_entities_and_relations(tmp_path: Path) -> None:
    path = write(tmp_path, line(record(source="x", split="train", meta={"doc": "d-7", "anything": [1]})))
    assert read_passages([path]) == (
        Passage(
            id="p-1",
            text=TEXT,
            entities=(
                Entity(id="T1", type="drug", start=12, end=19),
                Entity(id="T2", type="problem", start=24, end=34),
            ),
            relations=(Relation(type="treats", head="T1", tail="T2"),),
            document="d-7",
        ),
    )


def test_a_passage_whose_relations_nobody_annotated_has_none(tmp_path: Path) -> None:
    assert read_passages([write(tmp_path, line(record(relations=None)))])[0].relations == ()


@pytest.mark.parametrize("meta", [None, {}, {"other": "d-7"}])
def test_a_passage_without_a_document_is_its_own(tmp_path: Path, meta: object) -> None:
    assert read_passages([write(tmp_path, line(record(meta=meta)))])[0].document == "p-1"


def test_passages_keep_the_order_of_files_and_lines(tmp_path: Path) -> None:
    first = write(tmp_path, line(record(id="b")) + line(record(id="a")), "1.jsonl")
    second = write(tmp_path, line(record(id="0")), "2.jsonl")
    assert [passage.id for passage in read_passages([first, second])] == ["b", "a", "0"]


def test_each_file_is_a_set_of_its_own(tmp_path: Path) -> None:
    first = write(tmp_path, line(record(id="b")) + line(record(id="a")), "1.jsonl")
    second = write(tmp_path, line(record(id="0")), "2.jsonl")
    sets = read_passage_sets([first, second])
    assert [[passage.id for passage in passages] for passages in sets] == [["b", "a"], ["0"]]


def test_offsets_count_characters_not_bytes(tmp_path: Path) -> None:
    text = "Fièvre 😷 aspirin"
    path = write(tmp_path, line(record(text=text, entities=[entity(start=9, end=16)], relations=[])))
    (passage,) = read_passages([path])
    assert passage.text[passage.entities[0].start : passage.entities[0].end] == "aspirin"


def test_blank_lines_a_byte_order_mark_and_a_missing_last_line_end_are_passed_over(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf\r\n" + line(record()) + b"  \n" + line(record(id="p-2")).rstrip()
    assert [passage.id for passage in read_passages([write(tmp_path, content)])] == ["p-1", "p-2"]


def test_the_text_of_a_passage_is_not_in_its_representation(tmp_path: Path) -> None:
    (passage,) = read_passages([write(tmp_path, line(record()))])
    assert "Marfan" not in repr(passage)


def test_annotated_types_are_those_that_occur(tmp_path: Path) -> None:
    assert annotated_types(read_passages([write(tmp_path, line(record()))])) == {"drug", "problem"}


MALFORMED: dict[str, tuple[bytes, str]] = {
    "bad UTF-8": (b'{"id": "Marfan\xff"}\n', "expected UTF-8, got something else at byte 15"),
    "bad JSON": (b'{"id": "Marfan"\n', "expected JSON, got a syntax error at character"),
    "a huge number": (b'{"Marfan": ' + b"9" * 5000 + b"}\n", "a number too long"),
    "deep nesting": (b'{"Marfan": ' + b"[" * 100_000 + b"\n", "nested too deep"),
    "not an object": (b'["Marfan"]\n', "expected an object, got a list"),
    "id missing": (line(record(id=None)), "id: missing"),
    "text missing": (line(record(text=None)), "text: missing"),
    "entities missing": (line(record(entities=None)), "entities: missing"),
    "relations null": (line(record() | {"relations": None}), "relations: expected a list, got null"),
    "wrong type": (line(record(text=["Marfan"])), "text: expected a string, got a list"),
    "empty text": (line(record(text="", entities=[], relations=[])), "text: expected at least one character"),
    "half a surrogate pair": (line(record(id="Marfan\ud800")), "id: expected Unicode text"),
    "unknown field": (line(record(Marfan=1)), "record: expected no fields but id, text"),
    "meta no object": (line(record(meta="Marfan")), "meta: expected an object, got a string"),
    "document no string": (line(record(meta={"doc": 7})), "meta.doc: expected a string, got an integer"),
    "patient no string": (line(record(meta={"patient": ["Marfan"]})), "meta.patient: expected a string, got a list"),
    "entity no object": (line(record(entities=["Marfan"], relations=[])), "entities[0]: expected an object"),
    "entity field missing": (
        line(record(entities=[{"id": "T1", "type": "drug", "start": 12, "end": 19}], relations=[])),
        "entities[0].text: missing",
    ),
    "entity field unknown": (
        line(record(entities=[entity(Marfan=1)], relations=[])),
        "entities[0]: expected no fields but id, type, start, end, text; got 1 others",
    ),
    "unknown entity type": (
        line(record(entities=[entity(type="Marfan")], relations=[])),
        "entities[0].type: expected one of bodyloc, condition",
    ),
    "offset no integer": (
        line(record(entities=[entity(start="12")], relations=[])),
        "entities[0].start: expected an integer, got a string",
    ),
    "offset a boolean": (
        line(record(entities=[entity(start=True)], relations=[])),
        "entities[0].start: expected an integer, got a boolean",
    ),
    "offset a fraction": (
        line(record(entities=[entity(end=19.0)], relations=[])),
        "entities[0].end: expected an integer, got a number with a fraction",
    ),
    "end beyond the text": (
        line(record(entities=[entity(end=36)], relations=[])),
        "entities[0].start, end: expected 0 <= start < end <= 35, got 12 and 36",
    ),
    "negative start": (
        line(record(entities=[entity(start=-23)], relations=[])),
        "entities[0].start, end: expected 0 <= start < end <= 35, got -23 and 19",
    ),
    "empty entity": (
        line(record(entities=[entity(start=19, text="")], relations=[])),
        "entities[0].start, end: expected 0 <= start < end <= 35, got 19 and 19",
    ),
    "huge offset": (
        line(record(entities=[entity(end=10**30)], relations=[])),
        "got 12 and a number beyond a billion",
    ),
    "other text": (
        line(record(entities=[entity(text="Marfan")], relations=[])),
        "entities[0].text: expected what the passage's text holds from 12 to 19",
    ),
    "entity ids repeated": (
        line(record(entities=[entity(), entity(type="problem")], relations=[])),
        "entities: expected every id once, got 1 repeated",
    ),
    "relation to nothing": (
        line(record(relations=[{"type": "treats", "head": "T1", "tail": "Marfan"}])),
        "relations[0].tail: expected the id of an entity of this passage",
    ),
    "unknown relation type": (
        line(record(relations=[{"type": "Marfan", "head": "T1", "tail": "T2"}])),
        "relations[0].type: expected one of adverse_effect, hasAttr, treats",
    ),
}


@pytest.mark.parametrize(("content", "expected"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_record_is_refused_by_file_line_and_field_alone(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    problems = message(write(tmp_path, line(record(id="p-0")) + content))
    assert f"train.jsonl, line 2: {expected}" in problems or (
        expected in problems and "train.jsonl, line 2: " in problems
    )
    assert "Marfan" not in problems


def test_every_problem_of_every_file_is_listed_together(tmp_path: Path) -> None:
    first = write(tmp_path, line(record(id=7, text=None)) + line(record()) + b"{\n", "1.jsonl")
    second = write(tmp_path, line(record(entities=[entity(type="x", start="y")], id="p-2")), "2.jsonl")
    lines = message(first, second).splitlines()
    assert lines[0] == "problems in the notes: 6"
    assert [text.split(": expected")[0].split(": missing")[0] for text in lines[1:]] == [
        "1.jsonl, line 1: id",
        "1.jsonl, line 1: text",
        "1.jsonl, line 3",
        "2.jsonl, line 1: entities[0].type",
        "2.jsonl, line 1: entities[0].start",
        "2.jsonl, line 1: relations[0].tail",
    ]


def test_a_relation_to_a_malformed_entity_is_not_a_second_problem(tmp_path: Path) -> None:
    content = line(record(entities=[entity(id="T1"), entity(id="T2", end=99)]))
    assert message(write(tmp_path, content)).startswith("problems in the notes: 1\n")


def test_the_list_of_problems_is_cut_and_the_rest_counted(tmp_path: Path) -> None:
    problems = message(write(tmp_path, b"{\n" * 61)).splitlines()
    assert problems[0] == "problems in the notes: 61"
    assert problems[-1] == "and 11 more"
    assert len(problems) == 52


def test_a_passage_id_used_twice_is_refused_across_files(tmp_path: Path) -> None:
    first, second = write(tmp_path, line(record()), "1.jsonl"), write(tmp_path, line(record()), "2.jsonl")
    assert "2.jsonl, line 1: id: expected every passage id once, got that of 1.jsonl, line 1" in message(first, second)


@pytest.mark.parametrize("content", [b"", b"\n \n"])
def test_a_file_without_a_passage_is_refused(tmp_path: Path, content: bytes) -> None:
    assert "train.jsonl: expected at least one passage, got an empty file" in message(write(tmp_path, content))


def test_no_file_at_all_is_refused() -> None:
    assert "expected at least one file, got none" in message()


def test_a_file_that_is_missing_and_one_that_is_a_folder_are_refused(tmp_path: Path) -> None:
    problems = message(tmp_path / "absent.jsonl", tmp_path)
    assert "absent.jsonl: cannot be read (FileNotFoundError)" in problems
    assert f"{tmp_path.name}: cannot be read (IsADirectoryError)" in problems


def test_files_of_one_name_are_told_apart_without_their_folders(tmp_path: Path) -> None:
    for folder in ("north", "south"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, b"{\n")
    problems = message(tmp_path / "north" / "train.jsonl", tmp_path / "south" / "train.jsonl")
    assert "train.jsonl (file 2 of 2), line 1: " in problems
    assert "south" not in problems


def test_an_oversize_line_is_refused_and_the_next_one_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passage_files, "MAX_LINE_BYTES", 600)
    content = line(record(text="Marfan " * 300)) + b"{\n" + line(record())
    assert message(write(tmp_path, content)).splitlines()[1:] == [
        "train.jsonl, line 1: expected at most 600 bytes, got more",
        "train.jsonl, line 2: expected JSON, got a syntax error at character 3",
    ]


def test_a_line_of_exactly_the_limit_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = line(record())
    monkeypatch.setattr(passage_files, "MAX_LINE_BYTES", len(content))
    assert len(read_passages([write(tmp_path, content + line(record(id="p-2")))])) == 2


@pytest.mark.parametrize(("patient", "expected"), [("p-7", "p-7"), (7, "7"), ("", None)])
def test_the_patient_is_a_key_in_words_or_a_number(tmp_path: Path, patient: object, expected: str | None) -> None:
    path = write(tmp_path, line(record(meta={"patient": patient})))
    assert read_passages([path])[0].patient == expected

"""Plain notes in, JSON and BRAT standoff out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import InputInvalidError, Reason
from site_agent.trainer.extraction import notes
from site_agent.trainer.extraction.mentions import Mention
from site_agent.trainer.extraction.notes import Note, read_notes
from site_agent.trainer.extraction.passage_files import read_passages
from site_agent.trainer.extraction.relations import RelationMention, relations_of
from site_agent.trainer.extraction.render import Findings, to_json, to_standoff

NOTHING = Findings(entities=())
NOTE = Note(name="n1", text="Aspirin 😷 for chest\r\npain.")
FOUND = (Mention(start=14, end=25, type="problem"), Mention(start=0, end=7, type="drug"))


def refusal(path: Path) -> str:
    with pytest.raises(InputInvalidError) as caught:
        read_notes(path)
    assert caught.value.reason is Reason.NOTES_INVALID
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return caught.value.message


def test_a_note_is_read_character_by_character(tmp_path: Path) -> None:
    (tmp_path / "n1.txt").write_bytes(NOTE.text.encode())
    assert read_notes(tmp_path / "n1.txt") == (NOTE,)


def test_a_folder_is_read_in_the_order_of_names_and_other_files_are_passed_over(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c.ann"):
        (tmp_path / name).write_text(name)
    assert [note.name for note in read_notes(tmp_path)] == ["a", "b"]


def test_an_empty_note_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "n1.txt").touch()
    assert read_notes(tmp_path) == (Note(name="n1", text=""),)


def test_a_folder_without_notes_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path.name}: expected at least one .txt file, got none"


def test_every_unreadable_note_is_listed_without_its_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "MAX_NOTE_BYTES", 20)
    (tmp_path / "a.txt").write_bytes(b"Marfan\xff")
    (tmp_path / "b.txt").write_bytes(b"Marfan " * 3)
    (tmp_path / "c.txt").mkdir()
    (tmp_path / "d.txt").write_bytes(b"x" * 20)
    assert refusal(tmp_path).splitlines() == [
        "a.txt: expected UTF-8, got something else at byte 7",
        "b.txt: expected at most 20 bytes, got more",
        "c.txt: cannot be read (IsADirectoryError)",
    ]


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path / "absent.txt") == "absent.txt: cannot be read (FileNotFoundError)"


def test_the_text_of_a_note_is_not_in_its_representation() -> None:
    assert "Aspirin" not in repr(NOTE)


def test_json_gives_entities_in_order_with_offsets_and_words() -> None:
    assert json.loads(to_json(NOTE, Findings(entities=FOUND))) == {
        "id": "n1",
        "text": NOTE.text,
        "entities": [
            {"id": "T1", "type": "drug", "start": 0, "end": 7, "text": "Aspirin"},
            {"id": "T2", "type": "problem", "start": 14, "end": 25, "text": "chest\r\npain"},
        ],
        "relations": [],
    }


def test_json_can_be_read_back_as_annotated_passages(tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    path.write_bytes(
        (to_json(NOTE, Findings(entities=FOUND)) + to_json(Note(name="n2", text="x\u2028y"), NOTHING)).encode()
    )
    first, second = read_passages([path])
    assert first.text == NOTE.text
    assert [entity.mention for entity in first.entities] == sorted(FOUND)
    assert second.text == "x\u2028y"


def test_standoff_names_type_offsets_and_words() -> None:
    assert to_standoff(
        Note(name="n", text="No chest pain"), Findings(entities=(Mention(start=3, end=13, type="problem"),))
    ) == ("T1\tproblem 3 13\tchest pain\n")


def test_standoff_writes_an_entity_over_a_line_end_as_discontinuous() -> None:
    assert to_standoff(NOTE, Findings(entities=FOUND)) == "T1\tdrug 0 7\tAspirin\nT2\tproblem 14 19;21 25\tchest pain\n"


def test_nothing_found_is_an_empty_standoff_file() -> None:
    assert to_standoff(NOTE, NOTHING) == ""


# Relations: an end that is no entity by itself has an id all the same.
RELATED = Findings(
    entities=FOUND,
    relations=(
        RelationMention(type="treats", head=FOUND[1], tail=FOUND[0]),
        RelationMention(type="hasAttr", head=FOUND[0], tail=Mention(start=14, end=19, type="bodyloc")),
    ),
)


def test_standoff_writes_relations_by_the_ids_of_their_ends() -> None:
    assert to_standoff(NOTE, RELATED).splitlines() == [
        "T1\tdrug 0 7\tAspirin",
        "T2\tbodyloc 14 19\tchest",
        "T3\tproblem 14 19;21 25\tchest pain",
        "R1\ttreats Arg1:T1 Arg2:T3",
        "R2\thasAttr Arg1:T3 Arg2:T2",
    ]


def test_json_with_relations_can_be_read_back_as_the_same_relations(tmp_path: Path) -> None:
    path = tmp_path / "found.jsonl"
    path.write_text(to_json(NOTE, RELATED))
    (passage,) = read_passages([path])
    assert set(relations_of(passage)) == set(RELATED.relations)

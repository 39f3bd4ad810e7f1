"""Files and folders to units: what is read, what is refused, and what lies beside it and is told."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from site_agent.trainer.extraction.importers.formats import FORMATS
from site_agent.trainer.extraction.importers.gathering import gather, passed_over
from site_agent.trainer.extraction.importers.source import Problem, Unit

BRAT, JSONL = FORMATS["brat"], FORMATS["jsonl"]


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """A folder with one annotated note."""
    folder = tmp_path / "notes"
    folder.mkdir()
    return touched(folder, "a.txt", "a.ann")


def touched(folder: Path, *names: str) -> Path:
    """The folder, with empty files of these names."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def names(*paths: Path) -> list[str]:
    return [each.name for each in gather(paths, BRAT) if isinstance(each, Unit)]


def problems(*paths: Path) -> list[str]:
    return [f"{each.where}: {each.what}" for each in gather(paths, BRAT) if isinstance(each, Problem)]


def test_a_folder_is_its_own_texts_with_their_annotations(notes: Path) -> None:
    touched(notes, "b.txt", "b.ann", "annotation.conf")

    assert (names(notes), problems(notes), list(passed_over([notes], BRAT))) == (["a.txt", "b.txt"], [], [])


def test_annotations_without_a_text_are_a_problem(notes: Path) -> None:
    touched(notes, "b.ann", "c.ann")

    assert names(notes) == ["a.txt"]
    assert problems(notes) == [
        "b.ann: expected a text beside it that ends in .txt, got none",
        "c.ann: expected a text beside it that ends in .txt, got none",
    ]


@pytest.mark.parametrize("name", ["a.ann", "a.ANN"])
def test_a_file_of_annotations_is_not_taken_for_a_text(notes: Path, name: str) -> None:
    touched(notes, name)

    assert names(notes / name) == []
    assert problems(notes / name) == [f"{name}: expected the text, which ends in .txt, got its annotations"]


def test_files_in_folders_inside_are_told_with_the_first_names(notes: Path) -> None:
    touched(notes, "b/1.txt", "b/1.ann", "b/c/2.TXT", "b/x.pdf", "b/d/3.txt")

    assert names(notes) == ["a.txt"]
    assert list(passed_over([notes], BRAT)) == ["files in folders inside: 4 (1.ann, 1.txt, 2.TXT and others)"]


def test_what_is_named_itself_is_not_told(notes: Path) -> None:
    touched(notes, "b/1.txt", "b/1.ann", "c/2.txt", "c/2.ann", "d/3.jsonl")

    assert list(passed_over([notes, notes / "b"], BRAT)) == ["files in folders inside: 2 (2.ann, 2.txt)"]
    assert list(passed_over([notes, notes / "d" / "3.jsonl"], JSONL)) == []


def test_files_of_one_name_are_counted_and_the_name_is_told_once(notes: Path) -> None:
    touched(notes, "b/1.txt", "c/1.txt", "d/1.txt", "d/e/1.txt")

    assert list(passed_over([notes], BRAT)) == ["files in folders inside: 4 (1.txt)"]


ODD = {"a line end": (b"1\n2", r"1\n2"), "ESC": (b"\x1b[2J", r"\x1b[2J"), "no UTF-8": (b"\xe9\xff", r"\udce9\udcff")}


@pytest.mark.parametrize(("raw", "expected"), ODD.values(), ids=ODD.keys())
def test_names_are_told_so_that_any_terminal_takes_them(notes: Path, raw: bytes, expected: str) -> None:
    name = os.fsdecode(raw)
    touched(notes, f"{name}.txt", f"b/{name}.txt", f"b/Fièvre {name}.txt")

    told = ", ".join(sorted([f"{expected}.txt", f"Fièvre {expected}.txt"]))
    assert list(passed_over([notes], BRAT)) == [f"files in folders inside: 2 ({told})"]
    assert problems(notes) == [f"{expected}.ann: cannot be read (FileNotFoundError)"]
    (read,) = (each for each in gather([touched(notes, f"{name}.ann") / f"{name}.txt"], BRAT) if isinstance(each, Unit))
    assert (read.name, read.stem) == (f"{expected}.txt", name)


def test_links_to_folders_are_counted_unless_what_they_lead_to_is_read(notes: Path, tmp_path: Path) -> None:
    other = touched(tmp_path / "other", "1.txt", "1.ann")
    (notes / "b").mkdir()
    for link in (notes / "link", notes / "b" / "again"):
        link.symlink_to(other)
    (notes / "b" / "up").symlink_to(notes)
    (notes / "loop.txt").symlink_to("loop.txt")

    assert list(passed_over([notes], BRAT)) == ["links to folders, which are not followed: 1"]
    assert list(passed_over([notes, other], BRAT)) == []
    assert list(passed_over([notes / "link"], BRAT)) == []


def test_folders_that_cannot_be_read_are_counted(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    closed = {str(touched(notes / name, "1.txt")) for name in ("b", "c")}
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path) in closed:
            raise PermissionError(errno.EACCES, "denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)

    assert list(passed_over([notes], BRAT)) == ["folders that cannot be read: 2"]
    assert list(passed_over([notes / "b"], BRAT)) == ["folders that cannot be read: 1"]


def test_a_suffix_that_is_not_in_lower_case_is_told(notes: Path) -> None:
    touched(notes, "b.TXT", "b.Ann")

    assert (names(notes), problems(notes)) == (["a.txt"], [])
    assert list(passed_over([notes], BRAT)) == ["files whose suffix is not in lower case: 2 (b.Ann, b.TXT)"]


def test_a_folder_without_a_text_is_refused_with_what_it_holds_instead(tmp_path: Path) -> None:
    touched(tmp_path / "export", "b.TXT", "c/1.txt")

    assert problems(tmp_path / "export") == [
        "export: expected files that end in .txt, got none; files in folders inside: 1 (1.txt); "
        "files whose suffix is not in lower case: 1 (b.TXT)"
    ]

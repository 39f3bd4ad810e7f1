"""``fedmed-site data ...`` as a person types it: what is written, what is told, and what is never told."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from site_agent.trainer.extraction.passage_files import read_passages

MAP = '[entities]\nSign = "problem"\nDrug = "drug"\n'


def data(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "site_agent", "data", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    """Two annotated notes of BRAT's, and a type map."""
    folder = tmp_path / "notes"
    folder.mkdir()
    (folder / "a.txt").write_text("Fever since Monday. Confidential aspirin.")
    (folder / "a.ann").write_text("T1\tSign 0 5\tFever\nT2\tDrug 33 40\taspirin\n*\tEquiv T1 T2\n")
    (folder / "b.txt").write_text("Rash.")
    (folder / "b.ann").write_text("T1\tSign 0 4\tRash\n")
    (tmp_path / "map.toml").write_text(MAP)
    return folder


def imported(notes: Path, *options: str | Path) -> tuple[subprocess.CompletedProcess[str], Path]:
    out = notes.parent / "out.jsonl"
    return data("import", "brat", notes, "--type-map", notes.parent / "map.toml", "--out", out, *options), out


def test_an_import_writes_passages_for_their_owner_alone_and_tells_what_it_counted(notes: Path) -> None:
    ended, out = imported(notes)

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split("\n") == [
        "2 passages of 2 documents",
        "            drug 1",
        "         problem 2",
        "left out or changed: equivalences: 1",
        "",
    ]
    assert [passage.id for passage in read_passages([out])] == ["a-0", "b-0"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_patients_come_from_a_table(notes: Path) -> None:
    table = notes.parent / "patients.csv"
    table.write_text("document,patient\na,p-1\nb,p-1\n")
    _, out = imported(notes, "--patients", table)

    assert [passage.patient for passage in read_passages([out])] == ["p-1", "p-1"]


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("doc,patient\n", "row 1: expected the columns document and patient, got others"),
        ("document,patient\na\n", "row 2: expected a document and a patient"),
        ("document,patient\na,Confidential\na,p-2\n", "row 3: expected one patient a document, got two"),
        ('document,patient\n"a,Confidential', "expected CSV, got a syntax error"),
    ],
)
def test_a_malformed_table_of_patients_is_refused(notes: Path, table: str, expected: str) -> None:
    path = notes.parent / "patients.csv"
    path.write_text(table)
    ended, out = imported(notes, "--patients", path)

    assert ended.returncode == 1
    assert expected in ended.stderr
    assert "Confidential" not in ended.stderr
    assert not out.exists()


def test_one_malformed_document_refuses_the_import_and_leaves_nothing(notes: Path) -> None:
    (notes / "b.ann").write_text("T1\tSign 0 4\tConfidential\n")
    ended, out = imported(notes)

    assert ended.returncode == 1
    assert "b.ann, line 1: expected what the text holds from 0 to 4" in ended.stderr
    assert "Confidential" not in ended.stderr + ended.stdout
    assert sorted(path.name for path in notes.parent.iterdir()) == ["map.toml", "notes"]
    assert not out.exists()


def test_the_rest_is_imported_where_that_is_asked_for_and_what_was_skipped_is_told(notes: Path) -> None:
    (notes / "b.ann").unlink()
    ended, out = imported(notes, "--skip-malformed")

    assert ended.returncode == 0
    assert "b.ann: cannot be read (FileNotFoundError)" in ended.stderr
    assert [passage.id for passage in read_passages([out])] == ["a-0"]


def test_nothing_to_import_is_refused_even_then(notes: Path) -> None:
    ended = data("import", "brat", notes.parent / "empty", "--out", notes.parent / "o.jsonl", "--skip-malformed")

    assert ended.returncode == 1
    assert "empty: cannot be read (FileNotFoundError)" in ended.stderr


def test_types_that_are_not_mapped_are_listed(notes: Path) -> None:
    (notes.parent / "map.toml").write_text("")
    ended, _ = imported(notes, "--skip-malformed")

    assert ended.returncode == 1
    assert 'expected every type of the source in [entities], missing: "Drug", "Sign"' in ended.stderr


def test_a_file_that_is_read_is_not_written(notes: Path) -> None:
    source = notes / "a.txt"
    ended = data("import", "pubtator", source, "--out", source)

    assert ended.returncode == 1
    assert "--out: expected another file than those that are read" in ended.stderr
    assert source.read_text().startswith("Fever")

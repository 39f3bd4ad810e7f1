"""``fedmed-site data ...`` as a person types it: what is written, what is told, and what is never told."""

from __future__ import annotations

import json
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


def test_documents_of_the_table_of_patients_that_were_not_met_are_counted(notes: Path) -> None:
    table = notes.parent / "patients.csv"
    table.write_text("document,patient\na,p-1\nConfidential,p-1\nc,p-2\n")
    ended, out = imported(notes, "--patients", table)

    assert "left out or changed: documents in the table of patients that were not met: 2\n" in ended.stdout
    assert "Confidential" not in ended.stderr + ended.stdout
    assert [passage.patient for passage in read_passages([out])] == ["p-1", None]


@pytest.mark.parametrize(("rows", "count"), [("", 0), ("a.txt,Confidential\nb.txt,p-2\n", 2)])
def test_a_table_of_patients_of_other_documents_is_refused(notes: Path, rows: str, count: int) -> None:
    table = notes.parent / "patients.csv"
    table.write_text(f"document,patient\n{rows}")
    ended, out = imported(notes, "--patients", table)

    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"patients.csv: expected a document of this import, got none among {count}\n"
    assert not out.exists()


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


def test_words_of_a_note_in_the_place_of_a_type_are_not_told(tmp_path: Path) -> None:
    source, out = tmp_path / "set.txt", tmp_path / "out.jsonl"
    source.write_text("1|t|No Confidential pain.\n1\tConfidential pain\tproblem\tD002637\n")
    ended = data("import", "pubtator", source, "--out", out)

    assert ended.returncode == 1
    assert "[relations], missing: a name of 17 characters (first in set.txt, document 1)" in ended.stderr
    assert "confidential" not in (ended.stderr + ended.stdout).casefold()
    assert not out.exists()


def test_what_is_doubtful_is_told_after_an_import(notes: Path) -> None:
    (notes / "a.ann").write_text("T1\tSign 0 4\tFeve\nT2\tDrug 33 40\taspirin\nR1\ttreats Arg1:T1 Arg2:T2\n")
    ended, out = imported(notes)

    assert ended.stdout.splitlines()[-2:] == [
        "worth a look: entities that begin or end inside a word, or at white space: 1",
        "1 relations are not allowed by the label schema: they are not asked for",
    ]
    assert data("check", out).stdout.splitlines()[-2:] == [
        "1 relations lead from one sentence to another: they are not asked for",
        "1 relations are not allowed by the label schema: they are not asked for",
    ]


def test_files_that_were_not_read_are_told_after_an_import(notes: Path) -> None:
    (notes / "old").mkdir()
    for name in ("old/c.txt", "old/c.ann", "d.TXT"):
        (notes / name).touch()
    ended, _ = imported(notes)

    assert ended.stdout.splitlines()[-2:] == [
        "left out or changed: files in folders inside: 2 (c.ann, c.txt)",
        "left out or changed: files whose suffix is not in lower case: 1 (d.TXT)",
    ]


def test_what_the_type_map_lost_is_told_after_an_import(notes: Path) -> None:
    (notes.parent / "map.toml").write_text('[entities]\nSgn = "problem"\nDrug = "drug"\n"*" = "drop"\n')
    ended, _ = imported(notes)

    assert ended.stdout.splitlines()[-2:] == [
        'left out or changed: dropped by "*" of the type map\'s [entities]: "Sign" 2',
        'worth a look: entries of the type map\'s [entities] that match nothing: "Sgn"',
    ]


NO_ENTITY = "worth a look: no document has an entity: "


def test_an_import_without_an_entity_says_so(notes: Path) -> None:
    (notes / "a.ann").write_text("")
    (notes / "b.ann").write_text("")
    ended, _ = imported(notes)

    assert ended.returncode == 0
    assert ended.stdout.splitlines()[-1] == f"{NO_ENTITY}the source has none"


def test_an_import_whose_entities_are_all_dropped_says_so(notes: Path) -> None:
    (notes.parent / "map.toml").write_text('[entities]\n"*" = "drop"\n')
    ended, _ = imported(notes)

    assert ended.stdout.splitlines()[-1] == f"{NO_ENTITY}the type map drops all 3 of the source"


@pytest.mark.parametrize(
    ("command", "out", "expected"),
    [
        (("import", "jsonl"), "absent/out.jsonl", "--out: expected a folder that is there, got none: {}/absent"),
        (("import", "jsonl"), "", "--out: expected a file, got a folder: {}"),
        (("split", "--by", "patient"), "absent/sets", "--out: expected a folder that is there, got none: {}/absent"),
    ],
)
def test_a_place_that_cannot_be_written_is_told_in_words(
    tmp_path: Path, command: tuple[str, ...], out: str, expected: str
) -> None:
    source = tmp_path / "notes.jsonl"
    source.write_text('{"text": "Fever.", "spans": []}')
    ended = data(*command, source, "--out", tmp_path / out)

    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"{expected.format(tmp_path)}\n"


def test_an_import_of_no_passage_is_refused_with_what_was_left_out(tmp_path: Path) -> None:
    source, out = tmp_path / "export.json", tmp_path / "out.jsonl"
    out.write_text("what was there")
    source.write_text(json.dumps([{"id": n, "data": {"text": "Confidential"}, "annotations": []} for n in range(3)]))
    ended = data("import", "label-studio", source, "--out", out)

    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == (
        "expected at least one passage, got none; nothing is written. Left out: tasks that nobody annotated: 3\n"
    )
    assert out.read_text() == "what was there"


def test_a_file_that_is_read_is_not_written(notes: Path) -> None:
    source = notes / "a.txt"
    ended = data("import", "pubtator", source, "--out", source)

    assert ended.returncode == 1
    assert "--out: expected another file than those that are read" in ended.stderr
    assert source.read_text().startswith("Fever")


# Checks and splits


def write(path: Path, *records: tuple[str, str]) -> Path:
    """A file of passages, each of a patient."""
    lines = (
        json.dumps({"id": name, "text": f"{name} has fever.", "entities": [], "meta": {"patient": patient, "ward": 7}})
        for name, patient in records
    )
    path.write_text("\n".join(lines))
    return path


def test_two_sets_with_one_patient_are_refused_by_line(tmp_path: Path) -> None:
    train, test = write(tmp_path / "a.jsonl", ("a", "Doe"), ("b", "2")), write(tmp_path / "b.jsonl", ("c", "Doe"))
    ended = data("check", test, "--against", train)

    assert ended.returncode == 1
    assert "b.jsonl, line 1: expected nothing in common with the other set, got the patient of a.jsonl, line 1" in (
        ended.stderr
    )
    assert "Doe" not in ended.stderr + ended.stdout


@pytest.mark.parametrize("name", ["test.jsonl", "sets/test.jsonl"])
def test_two_sets_in_files_of_one_name_are_told_apart(tmp_path: Path, name: str) -> None:
    for folder in ("north", "south"):
        (tmp_path / folder / name).parent.mkdir(parents=True)
    one, other = (write(tmp_path / folder / name, (folder, "Doe")) for folder in ("north", "south"))
    ended = data("check", one, "--against", other)

    assert ended.stderr.splitlines()[1:] == [
        f"north/{name}, line 1: expected nothing in common with the other set, got the patient of south/{name}, line 1"
    ]


def test_a_file_that_is_named_twice_is_told_by_number(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", ("a", "1"))

    assert data("check", path, path).stderr.splitlines()[1:] == [
        "x.jsonl (file 2 of 2), line 1: id: expected every passage id once, got that of x.jsonl (file 1 of 2), line 1"
    ]


def test_two_sets_that_share_nothing_are_counted(tmp_path: Path) -> None:
    train, test = write(tmp_path / "a.jsonl", ("a", "1")), write(tmp_path / "b.jsonl", ("c", "3"))
    ended = data("check", test, "--against", train)

    assert (ended.returncode, ended.stdout) == (0, "1 passages of 1 documents, 1 sentences\n")


def test_a_split_writes_every_line_as_it_was_into_one_of_three_files(tmp_path: Path) -> None:
    notes = write(tmp_path / "all.jsonl", *((f"p{n}", f"{n % 20}") for n in range(60)))
    ended = data("split", notes, "--by", "patient", "--out", tmp_path / "sets")

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[0] == "train 48 passages of 48 documents"
    files = sorted((tmp_path / "sets").iterdir())
    assert [path.name for path in files] == ["dev.jsonl", "test.jsonl", "train.jsonl"]
    assert sorted(line for path in files for line in path.read_text().splitlines()) == sorted(
        notes.read_text().splitlines()
    )
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


def test_near_copies_of_one_template_do_not_make_a_split_refuse_its_own_sets(tmp_path: Path) -> None:
    template = " ".join(f"word{number}" for number in range(16))
    notes = write(tmp_path / "notes.jsonl", *((f"p{n} {template}", f"{n}") for n in range(55)))
    ended = data("split", notes, "--by", "patient", "--out", tmp_path / "sets")

    assert ended.returncode == 0, ended.stderr


def test_a_set_of_no_share_is_not_written(tmp_path: Path) -> None:
    notes = write(tmp_path / "all.jsonl", *((f"p{n}", f"{n}") for n in range(10)))
    data("split", notes, "--by", "patient", "--dev", "0", "--train", "0.5", "--test", "0.5", "--out", tmp_path / "sets")

    assert sorted(path.name for path in (tmp_path / "sets").iterdir()) == ["test.jsonl", "train.jsonl"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--train", "0.5"), "fractions: expected a sum of 1, got 0.7"),
        (("--by", "document"), "split by patient"),
        (("--out", "."), "expected a folder that is not there yet"),
    ],
)
def test_a_split_that_cannot_be_made_leaves_nothing(tmp_path: Path, options: tuple[str, ...], expected: str) -> None:
    notes = write(tmp_path / "all.jsonl", *((f"p{n}", f"{n % 4}") for n in range(10)))
    ended = data("split", notes, "--by", "patient", "--out", tmp_path / "sets", *options)

    assert ended.returncode == 1
    assert expected in ended.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["all.jsonl"]


def test_statistics_are_written_for_their_owner_alone(tmp_path: Path) -> None:
    files = [write(tmp_path / f"{name}.jsonl", (name, name)) for name in ("north", "south")]
    ended = data("stats", *files, "--out", tmp_path / "numbers")

    assert ended.returncode == 0, ended.stderr
    assert "for your site alone" in ended.stdout
    written = sorted((tmp_path / "numbers").iterdir())
    assert [path.name for path in written] == [
        *("labels.csv", "labels.png", "lengths.csv", "lengths.png", "overlap.csv", "overlap.png"),
        "statistics.md",
    ]
    assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {0o600}

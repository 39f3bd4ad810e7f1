"""What a demo is asked to do, and what it refuses before it does anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.options import CORPORA, CORPUS_FILES, EXAMPLES, EXAMPLES_OF_CORPORA, parse_options


def write_corpora(folder: Path) -> None:
    for corpus in CORPORA:
        (folder / corpus).mkdir()
        for name in CORPUS_FILES:
            (folder / corpus / name).touch()


def test_every_file_that_a_folder_of_corpora_lacks_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_corpora(tmp_path)
    (tmp_path / "chia/dev.jsonl").unlink()
    (tmp_path / "phee/test.jsonl").unlink()

    with pytest.raises(SystemExit):
        parse_options(["--data", str(tmp_path)])

    assert "missing: chia/dev.jsonl, phee/test.jsonl" in capsys.readouterr().err


def test_only_corpora_of_sites_that_take_part_are_needed(tmp_path: Path) -> None:
    write_corpora(tmp_path)
    (tmp_path / "phee/test.jsonl").unlink()

    options, _ = parse_options(["--data", str(tmp_path), "--sites", "2"])

    assert options.data == tmp_path


@pytest.mark.parametrize(("given", "expected"), [("1", True), ("0", False), ("", False)])
def test_the_environment_asks_for_worked_examples(given: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THREE_SHOT", given)

    assert parse_options([])[0].with_three_shot is expected


def test_real_corpora_get_more_examples_a_round_unless_somebody_says_how_many(tmp_path: Path) -> None:
    write_corpora(tmp_path)
    data = ["--data", str(tmp_path)]

    asked = [parse_options(arguments)[0].examples_per_round for arguments in ([], data, [*data, "--examples", "8"])]

    assert asked == [EXAMPLES, EXAMPLES_OF_CORPORA, 8]

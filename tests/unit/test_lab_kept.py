"""Findings in a file: what is written is read as it was, and a file that is something else is refused with its line."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import InputInvalidError
from common.ids import Digest
from lab.findings import Kept, Played
from lab.kept import read_kept, write_kept
from tests.fakes.lab_findings import whole_findings

FINDINGS = whole_findings()
PLAYED = Played(scored=FINDINGS.scored, trained=FINDINGS.trained, notes=FINDINGS.notes)


def kept(digit: str, played: Played = PLAYED) -> Kept:
    return Kept(name="an arm", seed=1, asked=Digest(f"sha256:{digit * 64}"), made_by="a machine", played=played)


def test_what_is_written_is_read_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "findings.jsonl"
    write_kept(path, [kept("a"), kept("b", Played())])

    read = read_kept([path])

    first, second = (read[kept(digit).asked].played for digit in "ab")
    assert (list(first.scored), list(first.trained), list(first.notes)) == (
        list(FINDINGS.scored), list(FINDINGS.trained), list(FINDINGS.notes),
    )  # fmt: skip
    assert (list(second.scored), list(second.trained), list(second.notes)) == ([], [], [])
    assert (read[kept("a").asked].name, read[kept("a").asked].made_by) == ("an arm", "a machine")


def test_a_loss_that_is_no_number_is_kept_as_such(tmp_path: Path) -> None:
    row = replace(FINDINGS.trained[0], mean_loss=float("nan"), validation_loss=float("inf"))
    write_kept(tmp_path / "findings.jsonl", [kept("a", Played(trained=[row]))])

    (read,) = read_kept([tmp_path / "findings.jsonl"])[kept("a").asked].played.trained

    assert math.isnan(read.mean_loss) and read.validation_loss == float("inf")


def test_of_what_several_files_hold_the_last_one_counts(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write_kept(first, [kept("a"), kept("b")])
    write_kept(second, [kept("b", Played(notes=["newer"]))])

    read = read_kept([first, second])

    assert list(read[kept("b").asked].played.notes) == ["newer"]
    assert len(read) == 2


@pytest.mark.parametrize(
    "line",
    [
        b'{"format":1,"name":"a","seed":1,"asked":[],"made_by":"m","played":{}}',
        b'{"format":1,"name":"a","seed":1,"asked":"x","made_by":"m","played":{}}',
        b'{"format":1,"name":["a"],"seed":1,"asked":"sha256:' + b"0" * 64 + b'","made_by":"m","played":{}}',
        b'{"format":1,"name":"a","seed":1,"asked":"sha256:' + b"0" * 64 + b'","made_by":"m","played":{"more":1}}',
        b"[" * 100_000,
        b"",
        b"no json",
        b"[]",
        b"{}",
        b'{"format":2}',
        b'{"format":1,"name":"a","seed":1,"asked":"sha256:","made_by":"m","played":7}',
        b'{"format":1,"name":"a","seed":1,"asked":"x","made_by":"m","played":{"scored":[{"strict":[[1,2]],"lenient":[]}]}}',
        b'{"format":1,"name":"a","seed":1,"asked":"x","made_by":"m","played":{"scored":[{"strict":[],"lenient":[]}]}}',
    ],
)
def test_a_line_that_was_not_written_here_is_refused_with_its_number(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "findings.jsonl"
    write_kept(path, [kept("a")])
    path.write_bytes(path.read_bytes() + line + b"\n")

    with pytest.raises(InputInvalidError, match=r"findings.jsonl, line 2: expected findings as fedmed-lab writes them"):
        read_kept([path])


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputInvalidError, match="expected a file of findings, got No such file"):
        read_kept([tmp_path / "nothing"])

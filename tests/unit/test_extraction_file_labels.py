"""What files are called in messages: so little of their paths that they are told apart, and no more."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from site_agent.trainer.extraction import file_labels
from site_agent.trainer.extraction.file_labels import labels_with_folders, labels_without_folders

CASES: dict[str, tuple[list[str], list[str]]] = {
    "none": ([], []),
    "one": (["/a/b/x"], ["x"]),
    "other names": (["/a/x", "/a/y"], ["x", "y"]),
    "one name": (["/a/x", "/b/x", "/a/y"], ["a/x", "b/x", "y"]),
    "one folder's name": (["/a/s/x", "/b/s/x", "/b/t/x"], ["a/s/x", "b/s/x", "t/x"]),
    "in the root": (["/x", "/a/x"], ["/x", "a/x"]),
    "a shorter path": (["/a/x", "/b/a/x"], ["/a/x", "b/a/x"]),
    "one path": (["/a/x", "/a/x"], ["x (file 1 of 2)", "x (file 2 of 2)"]),
    "one path twice and one name": (["/a/x", "/b/x", "/a/x"], ["a/x (file 1 of 3)", "b/x", "a/x (file 3 of 3)"]),
}


@pytest.mark.parametrize(("paths", "expected"), CASES.values(), ids=CASES.keys())
def test_files_are_told_apart_by_as_few_folders_as_do_or_by_number(paths: list[str], expected: list[str]) -> None:
    assert labels_with_folders([Path(path) for path in paths]) == expected


def test_a_path_is_the_same_from_here_and_from_the_root() -> None:
    assert labels_with_folders([Path("x"), Path("x").absolute()]) == ["x (file 1 of 2)", "x (file 2 of 2)"]


def test_without_folders_files_of_one_name_are_numbered() -> None:
    paths = [Path(path) for path in ("/a/x", "/a/y", "/b/x")]

    assert labels_without_folders(paths) == ["x (file 1 of 3)", "y", "x (file 3 of 3)"]


def test_each_file_is_compared_with_two_others_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = Counter[tuple[str, ...]]()
    shared = file_labels._shared

    def counted(one: tuple[str, ...], other: tuple[str, ...]) -> int:
        compared.update([one, other])
        return shared(one, other)

    monkeypatch.setattr(file_labels, "_shared", counted)
    labels = labels_with_folders([Path(f"/{number}/x") for number in range(100)])

    assert (labels[7], max(compared.values())) == ("7/x", 2)

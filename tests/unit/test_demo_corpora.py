"""How many passages the demo scores: a corpus of short passages is not judged by fewer sentences than the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.corpora import passages_to_score
from tests.fakes.demo_values import write_passages


@pytest.mark.parametrize(
    ("sentences", "scored"),
    [
        ([1] * 200, 75),
        ([5] * 30, 25),
        ([6, 8] * 20, 25),
        ([1, 2] * 30, 50),
        ([1, 2, 4] * 10, 33),  # two and a third on average
    ],
)
def test_short_passages_are_more_of_them(tmp_path: Path, sentences: list[int], scored: int) -> None:
    assert passages_to_score(write_passages(tmp_path / "test.jsonl", sentences), 25) == scored

"""The annotated corpora beside the checkout, or where ``FEDMED_CORPORA`` says, for tests that need them."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

import pytest

from site_agent.trainer.extraction.passage_files import read_passages
from site_agent.trainer.extraction.passages import Passage

CORPORA = Path(os.environ.get("FEDMED_CORPORA") or Path(__file__).parents[2] / "shared" / "data")

# Marks of a module all of whose tests need them.
needs_corpora = [
    pytest.mark.corpora,
    pytest.mark.skipif(not CORPORA.is_dir(), reason=f"no folder of corpora: FEDMED_CORPORA names it, got {CORPORA}"),
]


@cache
def passages(name: str, *splits: str) -> tuple[Passage, ...]:
    """Those of a corpus, split by split."""
    return read_passages([CORPORA / name / f"{split}.jsonl" for split in splits])

"""Which notes each site of the demo holds: generated ones, or the user's own copy of annotated corpora."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from demo.notes.generate import Split
from demo.notes.write import default_site_names, write_corpus
from demo.options import CORPORA, DemoOptions
from site_agent.trainer.extraction.passage_files import read_passages
from site_agent.trainer.extraction.sentences import split_sentences

# Enough for several rounds of the demo; generating more costs only start-up time.
GENERATED_SIZES = {Split.TRAIN: 200, Split.DEV: 25, Split.TEST: 40}
# Of a corpus whose passages are shorter than so many sentences, more passages are scored: else chance decides there.
SENTENCES_PER_PASSAGE = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteCorpus:
    """One site's annotated passages: what it trains on, what the consortium validates on, what the demo scores."""

    site: str
    train: Path
    dev: Path
    test: Path


def site_names(options: DemoOptions) -> tuple[str, ...]:
    """The demo's sites."""
    return default_site_names(options.sites) if options.data is None else CORPORA[: options.sites]


def corpora_of(options: DemoOptions, notes_folder: Path) -> tuple[SiteCorpus, ...]:
    """The corpora of the demo's sites; corpora of ``options.data`` are read where they lie, never copied."""
    sites, root = site_names(options), options.data or notes_folder
    if options.data is None:
        write_corpus(notes_folder, sites, options.seed, GENERATED_SIZES)
    return tuple(
        SiteCorpus(
            site=site, train=root / site / "train.jsonl", dev=root / site / "dev.jsonl", test=root / site / "test.jsonl"
        )
        for site in sites
    )


def passages_to_score(test: Path, passages: int) -> int:
    """How many passages of the file have as many sentences as ``passages`` of SENTENCES_PER_PASSAGE; or ``passages``.

    Raises:
        InputInvalidError: the file is not one of passages.
    """
    lengths = [len(split_sentences(passage.text)) for passage in read_passages([test])]
    return max(passages, math.ceil(passages * SENTENCES_PER_PASSAGE * len(lengths) / max(1, sum(lengths))))

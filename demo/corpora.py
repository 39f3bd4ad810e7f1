"""Which notes each site of the demo holds: generated ones, or the user's own copy of annotated corpora."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from demo.notes.generate import Split
from demo.notes.write import default_site_names, write_corpus
from demo.options import CORPORA, DemoOptions

# Enough for several rounds of the demo; generating more costs only start-up time.
GENERATED_SIZES = {Split.TRAIN: 200, Split.DEV: 25, Split.TEST: 40}


@dataclass(frozen=True, slots=True, kw_only=True)
class SiteCorpus:
    """One site's annotated passages: what it trains on, what the consortium validates on, what the demo scores."""

    site: str
    train: Path
    dev: Path
    test: Path


def corpora_of(options: DemoOptions, notes_folder: Path) -> tuple[SiteCorpus, ...]:
    """The corpora of the demo's sites; corpora of ``options.data`` are read where they lie, never copied."""
    if options.data is None:
        sites = default_site_names(options.sites)
        write_corpus(notes_folder, sites, options.seed, GENERATED_SIZES)
        root = notes_folder
    else:
        sites, root = CORPORA[: options.sites], options.data
    return tuple(
        SiteCorpus(
            site=site, train=root / site / "train.jsonl", dev=root / site / "dev.jsonl", test=root / site / "test.jsonl"
        )
        for site in sites
    )

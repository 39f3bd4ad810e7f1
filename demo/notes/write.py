"""Sites' notes as JSONL files in the schema of the corpora. It draws no choice: `generate` does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import MappingProxyType

from demo.notes.generate import Record, Split, generate_site

DEFAULT_SIZES: Mapping[Split, int] = MappingProxyType({Split.TRAIN: 150, Split.DEV: 25, Split.TEST: 40})
_SITE_NAMES = ("general-hospital", "city-emergency", "lakeside-clinic")


def default_site_names(count: int) -> tuple[str, ...]:
    """Names of the first ``count`` sites."""
    numbered = (f"site-{number}" for number in range(len(_SITE_NAMES) + 1, count + 1))
    return tuple(chain(_SITE_NAMES[:count], numbered))


def write_corpus(folder: Path, sites: Sequence[str], seed: int, sizes: Mapping[Split, int] = DEFAULT_SIZES) -> None:
    """Write ``<folder>/<site>/{train,dev,test}.jsonl``; equal arguments give equal bytes on every machine.

    ``sizes`` are passages a site. Site number k of ``sites`` gets the notes of ``generate_site(k)``.

    Raises:
        ValueError: As `generate_site`.
    """
    for index, site in enumerate(sites):
        (folder / site).mkdir(parents=True, exist_ok=True)
        for split, records in generate_site(index, seed=seed, passages=sizes).items():
            lines = "".join(f"{record_line(record)}\n" for record in records)
            (folder / site / f"{split}.jsonl").write_bytes(lines.encode())


def record_line(record: Record) -> str:
    """The record as one line of JSON, without the newline."""
    passage = record.passage
    return json.dumps(
        {
            "id": passage.id,
            "text": passage.text,
            "entities": [
                {
                    "id": entity.id,
                    "type": entity.type,
                    "start": entity.start,
                    "end": entity.end,
                    "text": passage.text[entity.start : entity.end],
                }
                for entity in passage.entities
            ],
            "relations": [
                {"type": relation.type, "head": relation.head, "tail": relation.tail} for relation in passage.relations
            ],
            "source": record.source,
            "split": str(record.split),
            "meta": {"doc": passage.document},
        },
        ensure_ascii=False,
    )

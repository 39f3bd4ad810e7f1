"""Passages to lines of the JSONL schema that `passage_records` reads. It opens no file."""

from __future__ import annotations

import json

from site_agent.trainer.extraction.passages import Passage


def to_line(passage: Passage, source: str) -> bytes:
    """One line of UTF-8, its end included; ``source`` says where the passage comes from."""
    text = passage.text
    meta = {"doc": passage.document} | ({} if passage.patient is None else {"patient": passage.patient})
    record = {
        "id": passage.id,
        "text": text,
        "entities": [
            {"id": one.id, "type": one.type, "start": one.start, "end": one.end, "text": text[one.start : one.end]}
            for one in passage.entities
        ],
        "relations": [{"type": one.type, "head": one.head, "tail": one.tail} for one in passage.relations],
        "source": source,
        "meta": meta,
    }
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"

"""What was found in a note, as a file: JSON or BRAT standoff. It writes no file itself."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from site_agent.trainer.extraction.mentions import Mention
from site_agent.trainer.extraction.notes import Note

_LINE = re.compile(r"[^\r\n]+")


def to_json(note: Note, mentions: Sequence[Mention]) -> str:
    """One line in the schema that `passage_files` reads, so that a corrected answer can be trained on."""
    entities = [
        {
            "id": f"T{number}",
            "type": mention.type,
            "start": mention.start,
            "end": mention.end,
            "text": note.text[mention.start : mention.end],
        }
        for number, mention in enumerate(sorted(mentions), start=1)
    ]
    record = {"id": note.name, "text": note.text, "entities": entities, "relations": []}
    return json.dumps(record, ensure_ascii=False) + "\n"


def to_standoff(note: Note, mentions: Sequence[Mention]) -> str:
    """The ``.ann`` file beside the note's ``.txt`` (https://brat.nlplab.org/standoff.html).

    A line holds no line end, so an entity that runs over one is written as discontinuous: its parts' offsets
    parted by ``;``, their texts by a space.
    """
    return "".join(
        f"T{number}\t{mention.type} {_offsets(note, mention)}\t{' '.join(_parts(note, mention))}\n"
        for number, mention in enumerate(sorted(mentions), start=1)
    )


def _offsets(note: Note, mention: Mention) -> str:
    return ";".join(f"{part.start()} {part.end()}" for part in _LINE.finditer(note.text, mention.start, mention.end))


def _parts(note: Note, mention: Mention) -> list[str]:
    return [part.group() for part in _LINE.finditer(note.text, mention.start, mention.end)]

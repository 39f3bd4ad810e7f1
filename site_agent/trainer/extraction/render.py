"""What was found in a note, as a file: JSON or BRAT standoff. It writes no file itself."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from site_agent.trainer.extraction.mentions import Mention
from site_agent.trainer.extraction.notes import Note
from site_agent.trainer.extraction.relations import RelationMention

_LINE = re.compile(r"[^\r\n]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What was found in one note, by offsets into it; an end of a relation need not be among the entities."""

    entities: tuple[Mention, ...]
    relations: tuple[RelationMention, ...] = ()

    @property
    def ids(self) -> dict[Mention, str]:
        """An id for each entity and each end of a relation, in their order in the note: T1, T2, ..."""
        ends = {end for one in self.relations for end in (one.head, one.tail)}
        return {mention: f"T{number}" for number, mention in enumerate(sorted({*self.entities, *ends}), start=1)}


def to_json(note: Note, findings: Findings) -> str:
    """One line in the schema that `passage_files` reads, so that a corrected answer can be trained on."""
    ids = findings.ids
    entities = [
        {
            "id": name,
            "type": mention.type,
            "start": mention.start,
            "end": mention.end,
            "text": note.text[mention.start : mention.end],
        }
        for mention, name in ids.items()
    ]
    relations = [{"type": one.type, "head": ids[one.head], "tail": ids[one.tail]} for one in sorted(findings.relations)]
    record = {"id": note.name, "text": note.text, "entities": entities, "relations": relations}
    return json.dumps(record, ensure_ascii=False) + "\n"


def to_standoff(note: Note, findings: Findings) -> str:
    """The ``.ann`` file beside the note's ``.txt`` (https://brat.nlplab.org/standoff.html).

    A line holds no line end, so an entity that runs over one is written as discontinuous: its parts' offsets
    parted by ``;``, their texts by a space.
    """
    ids = findings.ids
    entities = (
        f"{name}\t{mention.type} {_offsets(note, mention)}\t{' '.join(_parts(note, mention))}\n"
        for mention, name in ids.items()
    )
    relations = (
        f"R{number}\t{one.type} Arg1:{ids[one.head]} Arg2:{ids[one.tail]}\n"
        for number, one in enumerate(sorted(findings.relations), start=1)
    )
    return "".join((*entities, *relations))


def _offsets(note: Note, mention: Mention) -> str:
    return ";".join(f"{part.start()} {part.end()}" for part in _LINE.finditer(note.text, mention.start, mention.end))


def _parts(note: Note, mention: Mention) -> list[str]:
    return [part.group() for part in _LINE.finditer(note.text, mention.start, mention.end)]

"""Names of a source in messages: a label as it is, and what may be text of a note by its length. Knows no schema."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TypeAlias

from site_agent.trainer.extraction.importers.source import SourceDocument

MAX_NAMES_SHOWN = 100
# A label of one to three short words. What is longer may be text in the wrong column.
_LABEL = re.compile(r"[\w:./+=-]{1,40}(?: [\w:./+=-]{1,20}){0,2}")

# A name, and the length of its value.
Named: TypeAlias = tuple[str, int]


def is_label(name: str) -> bool:
    """Whether it looks like a label, wherever it stands."""
    return _LABEL.fullmatch(name) is not None


def shown(named: Named, first: str) -> str:
    """A label as it is; what may be text by its length and by ``first``, where it stands first. No value."""
    name, length = named
    value = f" with a value of {length} characters" if length else ""
    return f"a name of {len(name)} characters{value} (first in {first})" if first else f'"{name}"{value}'


@dataclass(slots=True)
class Names:
    """Different names of one kind, so many that a person can read them.

    Attributes:
        seen: Of each that may be text the first document that has it; of a label nothing.
    """

    seen: dict[Named, str] = field(default_factory=dict, repr=False)

    def add(self, named: Named, wording: Wording, where: str, alone: bool = False) -> bool:
        """Note one that a document has, which may be among its ``wording``; whether it is one of those that are kept.

        A word that is a label in one document is no text in another; several words stay text. A name too many is not
        looked for in the text: a document may have as many names as words.
        """
        known, stays = self.seen.get(named), len(named[0].split()) > 1
        if known is None and len(self.seen) > MAX_NAMES_SHOWN:
            return False
        if is_label(named[0]) and not wording.says(named[0], alone):
            self.seen[named] = known if known and stays else ""
        elif known is None or (not known and stays):
            self.seen[named] = where
        return True

    def listed(self) -> str:
        """All of them, or the first ones."""
        told = sorted({shown(named, first) for named, first in self.seen.items()})[:MAX_NAMES_SHOWN]
        return ", ".join(told) + (" and others" if len(self.seen) > MAX_NAMES_SHOWN else "")


class Wording:
    """What a document says, to tell it from labels; whatever the case."""

    def __init__(self, document: SourceDocument) -> None:
        self._text = document.text.casefold()
        self._mentions = {document.text[one.start : one.end].casefold() for one in document.entities}

    def says(self, name: str, alone: bool) -> bool:
        """Whether a name may be words of the note: those of an entity, or several that occur; or one, if ``alone``.

        A label of one word, such as "drug", is that of an entity far more often than it is text. A relation has no
        words of its own to compare with, and readers take for one what may be an entity's line without offsets.
        """
        words = name.casefold().split()
        may_be = alone or len(words) > 1
        return name.casefold() in self._mentions or (may_be and all(self._holds(word) for word in words))

    def _holds(self, word: str) -> bool:
        """Whether it occurs: inside a word, too (in many scripts nothing parts them), unless it is very short."""
        if len(word) > 2:
            return word in self._text
        return re.search(f"(?<![a-z0-9]){re.escape(word)}(?![a-z0-9])", self._text) is not None

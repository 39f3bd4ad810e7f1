"""A house style: how one kind of hospital words what it writes, and what it writes. It draws no choice."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from demo.notes.template import Template, parse_template

# The order is that of the sites: site k writes in style k mod 3. The letter is what `Condition.settings` calls it.
HOUSE_SETTINGS: Mapping[str, str] = {"discharge": "w", "emergency": "e", "clinic": "c"}
_USE = re.compile(r"([a-z_]+) (\d)-(\d)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of a note: its headings, of which a note uses one, and the templates of its sentences."""

    headings: tuple[str, ...]
    templates: tuple[Template, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SectionUse:
    """``least`` to ``greatest`` sentences of a section."""

    section: str
    least: int
    greatest: int


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """One house style.

    Attributes:
        setting: Its letter in `Condition.settings`.
        units: "us" or "si".
        shows_units: Whether a result stands with its unit.
        repeats_heading: Whether every sentence starts with its section's heading, or only the first.
        heading: How a heading is set: ``"{}: "``.
        passages: The passages of a note, each by its sections.
        words: Wordings of routes, frequencies, forms, degrees and the like, by code.
        lexicon: Wordings of what the tables call by its full name.
        rewrites: Parts of words to replace, in order, in terms that the lexicon does not have.
    """

    name: str
    setting: str
    genre: str
    units: str
    shows_units: bool
    repeats_heading: bool
    capitalizes: bool
    heading: str
    between_sentences: str
    between_sections: str
    passages: tuple[tuple[SectionUse, ...], ...]
    words: Mapping[str, tuple[str, ...]]
    lexicon: Mapping[str, tuple[str, ...]]
    rewrites: tuple[tuple[str, str], ...]
    sections: Mapping[str, Section]

    def say(self, name: str) -> tuple[str, ...]:
        """The wordings of a term of the tables in this house."""
        if name in self.lexicon:
            return self.lexicon[name]
        for part, replacement in self.rewrites:
            name = name.replace(part, replacement)
        return (name,)


@cache
def load_house(name: str) -> House:
    """Read one of the houses that come with this package.

    Raises:
        ValueError: If a template is malformed.
    """
    style, lexicon, templates = (_read(name, file) for file in ("style", "lexicon", "templates"))
    phrases: dict[str, Template] = {}
    for phrase, source in templates["phrases"].items():
        phrases[phrase] = parse_template(source, phrases)
    passages = style.pop("passages")
    words = style.pop("words")
    return House(
        name=name,
        setting=HOUSE_SETTINGS[name],
        passages=tuple(tuple(_use(entry) for entry in passage) for passage in passages),
        words={code: tuple(wordings) for code, wordings in words.items()},
        lexicon={term: tuple(wordings) for term, wordings in lexicon["lexicon"].items()},
        rewrites=tuple((part, replacement) for part, replacement in lexicon["rewrites"]),
        sections={title: _section(table, phrases) for title, table in templates["sections"].items()},
        **style,
    )


def _read(name: str, file: str) -> dict[str, Any]:
    path = resources.files("demo.notes") / "houses" / name / f"{file}.toml"
    return tomllib.loads(path.read_text(encoding="utf-8"))


def _use(entry: str) -> SectionUse:
    match = _USE.fullmatch(entry)
    if match is None:
        raise ValueError(f"passages: expected 'section 1-2', got {entry!r}")
    return SectionUse(section=match[1], least=int(match[2]), greatest=int(match[3]))


def _section(table: Mapping[str, Any], phrases: Mapping[str, Template]) -> Section:
    heading = table["heading"]
    return Section(
        headings=(heading,) if isinstance(heading, str) else tuple(heading),
        templates=tuple(parse_template(line, phrases) for line in table["templates"].strip().splitlines()),
    )

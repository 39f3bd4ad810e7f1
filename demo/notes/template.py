r"""The language of the sentence templates: text to a tree. It draws no choice and knows no word of medicine.

The patient (denied|reported) text        one of the alternatives
{drug}  {strength}                        a slot, filled from the case (`case.py`)
{2-6}                                     a whole number
{harm~adverse_effect:drug}                a slot whose entity is so related to that of slot ``drug``
<negation:no|no evidence of>              the words themselves are an entity of this type
[{drug} {strength} daily]                 main entities and the modifiers that belong to them
\[ \( \|                                  the characters themselves
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

_TOKEN = re.compile(
    r"\\(?P<escaped>.)|<(?P<label>[a-z_]+):|\{(?P<slot>[^{}]*)\}|[()\[\]|>]|[^\\<>{}()\[\]|]+|.", re.DOTALL
)
_NUMBER = re.compile(r"(\d+)-(\d+)")
_SLOT = re.compile(r"([a-z_]+)(?:~([a-z_]+):([a-z_]+))?")


@dataclass(frozen=True, slots=True)
class Literal:
    """Text as it stands."""

    text: str


@dataclass(frozen=True, slots=True)
class Number:
    """A whole number from ``least`` to ``greatest``, both included."""

    least: int
    greatest: int


@dataclass(frozen=True, slots=True)
class Slot:
    """A place for something of the case; ``relation`` to the entity of the slot ``partner``, if there is one."""

    name: str
    relation: str = ""
    partner: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """One of the options."""

    options: tuple[Template, ...]


@dataclass(frozen=True, slots=True)
class Label:
    """An entity of this type whose words stand in the template."""

    type: str
    body: Template


@dataclass(frozen=True, slots=True)
class Group:
    """Main entities and the modifiers that belong to each of them."""

    body: Template


Node: TypeAlias = Literal | Number | Slot | Choice | Label | Group
Template: TypeAlias = tuple[Node, ...]


def parse_template(source: str, phrases: Mapping[str, Template]) -> Template:
    """The tree of ``source``; a slot that is named like a phrase stands for that phrase.

    Raises:
        ValueError: If a mark is not closed, or a slot is misspelt.
    """
    return _Parser(_TOKEN.finditer(source), phrases).until("")


def slot_names(template: Template) -> Iterator[str]:
    """Names of all slots, in order, those of every alternative included."""
    for node in template:
        match node:
            case Slot(name=name):
                yield name
            case Choice(options=options):
                for option in options:
                    yield from slot_names(option)
            case Label(body=body) | Group(body=body):
                yield from slot_names(body)
            case Literal() | Number():
                pass


@dataclass(frozen=True, slots=True)
class _Parser:
    tokens: Iterator[re.Match[str]]
    phrases: Mapping[str, Template]

    def until(self, closing: str) -> Template:
        """The nodes up to the token ``closing`` ("" is the end); with "|" among them, one choice of what it parts."""
        options: list[list[Node]] = [[]]
        for token in self.tokens:
            if token.group() == closing:
                break
            if token.group() == "|" and closing:
                options.append([])
            else:
                options[-1].extend(self._nodes(token))
        else:
            if closing:
                raise ValueError(f"template: expected {closing!r}, got the end")
        return tuple(options[0]) if len(options) == 1 else (Choice(tuple(map(tuple, options))),)

    def _nodes(self, token: re.Match[str]) -> Template:
        text = token.group()
        if token["escaped"]:
            return (Literal(token["escaped"]),)
        if token["label"]:
            return (Label(token["label"], self.until(">")),)
        if token["slot"] is not None:
            return self._slot(token["slot"])
        if text == "(":
            return self.until(")")
        if text == "[":
            return (Group(self.until("]")),)
        if text in "<>{}])|\\":
            raise ValueError(f"template: expected words, got {text!r}")
        return (Literal(text),)

    def _slot(self, inner: str) -> Template:
        if inner in self.phrases:
            return self.phrases[inner]
        if number := _NUMBER.fullmatch(inner):
            return (Number(int(number[1]), int(number[2])),)
        if slot := _SLOT.fullmatch(inner):
            return (Slot(slot[1], slot[2] or "", slot[3] or ""),)
        raise ValueError(f"template: expected the name of a slot, got {inner!r}")

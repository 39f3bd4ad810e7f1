"""One sentence from a template and a case, with its entities where the words were put. It searches no text.

Which fact tells what: a main slot (`MAIN_SLOTS`) tells one that this passage has not told; the first one in a group,
one that has every field that the group asks for. Other slots take their words from the group's facts, then from the
sentence's last fact that has them, then from the patient.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from common.label_schema import HAS_ATTRIBUTE, is_allowed_relation
from demo.notes.case import MAIN_SLOTS, Case, Fact, Term
from demo.notes.dice import Dice
from demo.notes.template import Choice, Group, Label, Literal, Node, Number, Slot, Template, slot_names
from site_agent.trainer.extraction.mentions import Mention

# Before these "a" is "an": vowels, acronyms that start with the name of a vowel, 8, 11 and 18. "uni" and "uri" sound
# like "you".
_TAKES_AN = re.compile(r"(?!uni|uri)[aeiouAEIO]|[FHLMNRSX](?=[A-Z])|8|1[18]\b")
_ENDS_IN_A = re.compile(r"\b[Aa] $")


class UnavailableError(Exception):
    """The case holds no fact that the template asks for."""


@dataclass(frozen=True, slots=True)
class Link:
    """A relation between entities by their place in `Sentence.mentions`."""

    type: str
    head: int
    tail: int


@dataclass(frozen=True, slots=True)
class Sentence:
    """Text with its entities in order of place.

    Attributes:
        keys: Names in the tables of what it tells.
    """

    text: str
    mentions: tuple[Mention, ...]
    links: tuple[Link, ...]
    keys: frozenset[str]


def compose(template: Template, case: Case, told: frozenset[str], dice: Dice) -> Sentence:
    """Fill ``template`` with facts of ``case`` of which none is in ``told``.

    Raises:
        UnavailableError: If there is no such fact for one of its slots.
    """
    writer = _Writer(case, set(told), dice)
    writer.write(tuple(_chosen(template, dice)))
    return Sentence("".join(writer.parts), tuple(writer.mentions), writer.links(), frozenset(writer.told) - told)


def _chosen(template: Template, dice: Dice) -> Iterator[Node]:
    """The nodes with every choice made."""
    for node in template:
        match node:
            case Choice(options=options):
                yield from _chosen(dice.pick(options), dice)
            case Label(type=entity_type, body=body):
                yield Label(entity_type, tuple(_chosen(body, dice)))
            case Group(body=body):
                yield Group(tuple(_chosen(body, dice)))
            case _:
                yield node


@dataclass(frozen=True, slots=True)
class _Filled:
    """That this slot became this entity, out of this fact."""

    slot: Slot
    mention: int
    fact: Fact | None


@dataclass(slots=True)
class _Writer:
    case: Case
    told: set[str]
    dice: Dice
    parts: list[str] = field(default_factory=list)
    length: int = 0
    mentions: list[Mention] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    filled: list[_Filled] = field(default_factory=list)
    attributes: list[Link] = field(default_factory=list)

    def write(self, nodes: Sequence[Node], drawn: Sequence[Fact] = ()) -> None:
        """Write nodes in which no choice is left; ``drawn`` are the facts of the group that they are in."""
        waiting = list(drawn)
        for node in nodes:
            match node:
                case Literal(text=text):
                    self._say(text)
                case Number(least=least, greatest=greatest):
                    self._say(str(self.dice.between(least, greatest)))
                case Label(type=entity_type, body=body):
                    start = self.length
                    self.write(body)
                    self._mark(start, entity_type)
                case Group(body=body):
                    self._write_group(body)
                case Slot() if node.name in MAIN_SLOTS:
                    fact = waiting.pop(0) if waiting else self._draw(node.name, frozenset())
                    self._fill(node, fact.terms[node.name], fact)
                case Slot():
                    self._fill(node, *self._field(node.name, drawn))

    def links(self) -> tuple[Link, ...]:
        """All relations, in order of their heads and tails."""
        named = (self._link(one) for one in self.filled if one.slot.relation)
        return tuple(sorted({*self.attributes, *named}, key=lambda link: (link.head, link.tail, link.type)))

    def _write_group(self, body: Template) -> None:
        names = list(slot_names(body))
        main = [name for name in names if name in MAIN_SLOTS]
        fields = frozenset(names) - frozenset(main) - self.case.plain.keys()
        drawn = [self._draw(name, fields if not index else frozenset()) for index, name in enumerate(main)]
        first = len(self.mentions)
        self.write(body, drawn)
        inside = range(first, len(self.mentions))
        for head in inside:
            for tail in inside:
                if is_allowed_relation(HAS_ATTRIBUTE, self.mentions[head].type, self.mentions[tail].type):
                    self.attributes.append(Link(HAS_ATTRIBUTE, head, tail))

    def _draw(self, slot: str, fields: frozenset[str]) -> Fact:
        options = [
            fact
            for fact in self.case.facts[slot]
            if (slot == "condition" or self.told.isdisjoint(fact.keys)) and fields <= fact.terms.keys()
        ]
        if not options:
            raise UnavailableError(f"slot {slot!r}: expected a fact with {sorted(fields)}, got none that is left")
        fact = self.dice.pick(options)
        self.told.update(fact.keys)
        self.facts.append(fact)
        return fact

    def _field(self, name: str, drawn: Sequence[Fact]) -> tuple[Term, Fact | None]:
        for fact in (*drawn, *reversed(self.facts)):
            if name in fact.terms:
                return fact.terms[name], fact
        if name in self.case.plain:
            return self.case.plain[name], None
        raise UnavailableError(f"slot {name!r}: expected a fact before it that has it, got none")

    def _fill(self, slot: Slot, term: Term, fact: Fact | None) -> None:
        words = self.dice.pick(term.wordings)
        if _TAKES_AN.match(words) and self.parts and _ENDS_IN_A.search(self.parts[-1]):
            self.parts[-1] = f"{self.parts[-1][:-1]}n "
            self.length += 1
        start = self.length
        self._say(words)
        if term.type is not None:
            self.filled.append(_Filled(slot, len(self.mentions), fact))
            self._mark(start, term.type)

    def _say(self, words: str) -> None:
        self.parts.append(words)
        self.length += len(words)

    def _mark(self, start: int, entity_type: str) -> None:
        self.mentions.append(Mention(start=start, end=self.length, type=entity_type))

    def _link(self, one: _Filled) -> Link:
        """Between a slot's entity and its partner: that of the same fact, or else the last before it, or the next."""
        partners = [other for other in self.filled if other.slot.name == one.slot.partner]
        same = [other for other in partners if one.fact is not None and other.fact is one.fact]
        before = [other for other in partners if other.mention < one.mention]
        partner = next(iter([*same, *reversed(before), *partners]), None)
        if partner is None:
            raise UnavailableError(f"slot {one.slot.name!r}: expected a slot {one.slot.partner!r}, got none")
        pair = (one.mention, partner.mention)
        if self.mentions[one.mention].type != "drug":
            pair = (partner.mention, one.mention)
        return Link(one.slot.relation, *pair)

"""PHEE's own JSON (Sun et al. 2022): a sentence a line, with events of drug safety and their arguments.

Every span is an entity; its type is what it is said of, and its role: ``Adverse_event.Effect``, ``Treatment.Drug``.
Relations run from the drugs of an event's treatment (from the treatment itself where no drug is named) to its effects,
under the event's name, and to the treatment's other parts; from a subject to its parts; from the effects to what is
said of the event. These are named as their tails. Where the event is denied, so is what has effects and treats: these
relations have another name. What several events share is one entity.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from types import MappingProxyType

from site_agent.trainer.extraction.importers.json_values import JsonValue, json_lines, parse_json
from site_agent.trainer.extraction.importers.placing import Placed, Stretches, place
from site_agent.trainer.extraction.importers.source import (
    MAX_RELATIONS,
    MalformedError,
    Outcome,
    SourceDocument,
    SourceEntity,
    SourceRelation,
    Unit,
    decoded,
    expect,
    expect_room,
    expect_text,
)

_EVENTS = ("Adverse_event", "Potential_therapeutic_event")
_SUBJECT, _TREATMENT = "Subject", "Treatment"
_DRUG, _DISORDER, _COMBINATION = "Drug", "Disorder", "Combination"
_PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        _SUBJECT: ("Age", _DISORDER, "Gender", "Population", "Race"),
        _TREATMENT: (_DRUG, _DISORDER, "Dosage", "Duration", "Freq", "Route", "Time_elapsed"),
    }
)
_EVENT, _TRIGGER, _EFFECT = ("event_id", "event_type"), "Trigger", "Effect"
_NEGATED, _SEVERITY, _SPECULATED = "Negated", "Severity", "Speculated"
# Of an event: words that say so, and a value.
_CUES = (_NEGATED, _SEVERITY, _SPECULATED)
_SPAN = ("text", "start", "entity_id")


@dataclass(slots=True)
class _Reading:
    """One sentence while its events are read."""

    found: dict[tuple[str, Stretches], Placed] = field(default_factory=dict)
    relations: dict[SourceRelation, None] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)

    def add_event(self, event: JsonValue) -> None:
        """Add what an event says.

        Raises:
            MalformedError: it says anything that PHEE does not.
        """
        _expect_fields(event, (*_EVENT, _TRIGGER, _EFFECT, *_PARTS, *_CUES))
        name = event.get("event_type").string()
        expect(name in _EVENTS, event.where, f"event_type: expected one of {', '.join(_EVENTS)}, got another value")
        self._spans(event.get(_TRIGGER), f"{name}.{_TRIGGER}")
        effects = self._spans(event.get(_EFFECT), f"{name}.{_EFFECT}")
        denied = f"={_NEGATED}" if _holds(event.get(_NEGATED)) else ""
        self._add_argument(event.get(_SUBJECT), _SUBJECT, name)
        heads, treats = self._add_argument(event.get(_TREATMENT), _TREATMENT, name, denied)
        self._relate(heads, effects, f"{name}{denied}", event.where)
        told = {cue for cue in _CUES if self._add_cue(event.get(cue), f"{name}.{cue}", effects)}
        if treats or (heads and effects):
            told.add(_NEGATED)
        for cue in (_NEGATED, _SPECULATED):
            if _holds(event.get(cue)) and cue not in told:
                self.left_out[f"true values of {cue} that neither words nor a relation tell"] += 1
        self.left_out["levels of severity"] += event.get(_SEVERITY).value is not None

    def _add_cue(self, cue: JsonValue, name: str, effects: Sequence[str]) -> bool:
        """Add the words of what is said of an event; whether there are any."""
        words = self._spans(cue, name, ("value",))
        self._relate(effects, words, name, cue.where)
        return bool(words)

    def _add_argument(self, argument: JsonValue, role: str, event: str, denied: str = "") -> tuple[list[str], bool]:
        """Add a subject or a treatment with its parts.

        Args:
            argument: It, or null.
            role: Which of both it is.
            event: What the event is called.
            denied: What the names of its relations to disorders end in.

        Returns:
            The ids of what stands for it in relations, and whether it has such relations.
        """
        own = self._spans(argument, f"{event}.{role}", (*_PARTS[role], _COMBINATION))
        if argument.value is None:
            return own, False
        parts = {part: self._spans(argument.get(part), f"{role}.{part}") for part in _PARTS[role]}
        heads = parts.pop(_DRUG, None) or own
        for part, tails in parts.items():
            self._relate(heads, tails, f"{role}.{part}{denied if part == _DISORDER else ''}", argument.where)
        for each in argument.get(_COMBINATION).items():
            _expect_fields(each, (*_EVENT, _TRIGGER, _DRUG))
            for part in (_TRIGGER, _DRUG):
                self._spans(each.get(part), f"{_COMBINATION}.{part}")
            self.left_out["which drugs are combined"] += 1
        return heads, bool(heads and parts[_DISORDER])

    def _spans(self, node: JsonValue, kind: str, more: Collection[str] = ()) -> list[str]:
        """The ids of the spans of an argument; none of null."""
        if node.value is None:
            return []
        _expect_fields(node, (*_SPAN, *more))
        texts, starts = (list(node.get(name).items()) for name in ("text", "start"))
        expect(len(texts) == len(starts), node.where, f"expected {len(texts)} starts, got {len(starts)}")
        return [self._span(text, start, kind) for text, start in zip(texts, starts, strict=True)]

    def _span(self, text: JsonValue, start: JsonValue, kind: str) -> str:
        words, places = [each.string() for each in text.items()], [each.integer() for each in start.items()]
        expect(len(words) == len(places), start.where, f"expected {len(words)} starts, got {len(places)}")
        stretches = tuple((first, first + len(each)) for first, each in zip(places, words, strict=True))
        if (kind, stretches) not in self.found:
            expect_room(len(self.found), text.where)
            entity = SourceEntity(id=f"T{len(self.found) + 1}", type=kind, start=0, end=0)
            placed = Placed(entity=entity, stretches=stretches, words=" ".join(words), where=text.where)
            self.found[kind, stretches] = placed
        return self.found[kind, stretches].entity.id

    def _relate(self, heads: Sequence[str], tails: Sequence[str], name: str, where: str) -> None:
        for head, tail in product(heads, tails):
            self.relations[SourceRelation(type=name, head=head, tail=tail)] = None
            expect(len(self.relations) <= MAX_RELATIONS, where, f"expected at most {MAX_RELATIONS} relations, got more")


def read_phee(unit: Unit) -> Iterator[Outcome]:
    """The sentences of a file, one a line."""
    try:
        content = decoded(unit.content, unit.name)
    except MalformedError as error:
        yield error.problem
        return
    for line, where in json_lines(content, unit.name):
        try:
            yield _document(parse_json(line, where))
        except MalformedError as error:
            yield error.problem


def _document(record: JsonValue) -> SourceDocument:
    text = expect_text(record.get("context").string(), record.where)
    annotations = list(record.get("annotations").items())
    expect(len(annotations) == 1, record.where, f"expected one annotation a sentence, got {len(annotations)}")
    expect("events" in annotations[0].fields(), annotations[0].where, "expected events, got none")
    reading = _Reading()
    for event in annotations[0].get("events").items():
        reading.add_event(event)
    return SourceDocument(
        id=record.get("id").name(),
        text=text,
        entities=place(text, tuple(reading.found.values())),
        relations=tuple(reading.relations),
        left_out=reading.left_out,
    )


def _holds(cue: JsonValue) -> bool:
    """Whether an event is said to be so."""
    return cue.value is not None and cue.get("value").value is not False


def _expect_fields(node: JsonValue, known: Collection[str]) -> None:
    """Refuse a field that PHEE does not have: what it holds would be lost."""
    others = len(node.fields().keys() - set(known))
    expect(not others, node.where, f"expected the fields {', '.join(known)}, got {others} others")

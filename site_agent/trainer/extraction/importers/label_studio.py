"""Label Studio's JSON export: tasks with a text and the annotation that a person finished.

A task with several finished annotations has to be settled there first. Offsets count UTF-16 units where the quoted
words say so. The document is ``data.document`` or the task's number, the patient ``data.patient``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from site_agent.trainer.extraction.importers.json_values import JsonValue, parse_json
from site_agent.trainer.extraction.importers.placing import Placed, place
from site_agent.trainer.extraction.importers.source import (
    LeftOut,
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

_UNNAMED = "unlabelled"


@dataclass(slots=True)
class _Regions:
    """What the items of one annotation say; an item's labels are one entity each."""

    found: list[Placed] = field(default_factory=list)
    ids: dict[str, list[str]] = field(default_factory=dict)
    attributes: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    relations: list[JsonValue] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def add(self, item: JsonValue) -> None:
        """Sort one item in."""
        match item.get("type").string():
            case "labels":
                self._add_labels(item)
            case "choices" if item.get("value").get("start").value is not None:
                chosen = [each.name() for each in item.get("value").get("choices").items()]
                name = item.get("from_name").name()
                self.attributes.setdefault(item.get("id").name(), []).extend((name, each) for each in chosen)
            case "relation":
                self.relations.append(item)
            case "hypertextlabels":
                raise MalformedError(item.where, "expected labels of plain text, got those of HTML")
            case _:
                self.left_out["answers about a whole text, and other items"] += 1

    def _add_labels(self, item: JsonValue) -> None:
        value = item.get("value")
        words = value.get("text")
        quoted = None if words.value is None else words.string()
        stretch = (value.get("start").integer(), value.get("end").integer())
        for label in value.get("labels").items():
            expect_room(len(self.found), item.where)
            entity = SourceEntity(id=f"T{len(self.found) + 1}", type=label.name(), start=0, end=0)
            self.found.append(Placed(entity=entity, stretches=(stretch,), words=quoted, where=item.where))
            self.ids.setdefault(item.get("id").name(), []).append(entity.id)

    def entities(self, text: str) -> tuple[SourceEntity, ...]:
        """The entities with their attributes, at their places; choices of a region without a label are counted."""
        for region, chosen in self.attributes.items():
            if region not in self.ids:
                self.left_out["choices of regions without a label"] += len(chosen)
        owned = {ours: self.attributes.get(theirs, []) for theirs, each in self.ids.items() for ours in each}
        return tuple(replace(one, attributes=tuple(owned[one.id])) for one in place(text, self.found))

    def related(self) -> Iterator[SourceRelation]:
        """The relations, from the first label of one region to that of the other."""
        for item in self.relations:
            head, tail = (self.ids.get(item.get(name).name()) for name in ("from_id", "to_id"))
            if head is None or tail is None:
                raise MalformedError(item.where, "expected the ids of two regions of this annotation, got others")
            direction = item.get("direction").optional_name() or "right"
            expect(direction in ("right", "left", "bi"), item.where, "direction: expected right, left or bi")
            if direction == "bi":
                self.left_out["relations without a direction"] += 1
                continue
            ends = (head[0], tail[0]) if direction == "right" else (tail[0], head[0])
            for name in [each.name() for each in item.get("labels").items()] or [_UNNAMED]:
                yield SourceRelation(type=name, head=ends[0], tail=ends[1])


def read_label_studio(unit: Unit) -> Iterator[Outcome]:
    """The tasks of an export."""
    try:
        tasks = list(parse_json(decoded(unit.content, unit.name), unit.name).items())
    except MalformedError as error:
        yield error.problem
        return
    for task in tasks:
        try:
            yield _task(task)
        except MalformedError as error:
            yield error.problem


def _task(task: JsonValue) -> Outcome:
    if "annotations" not in task.fields():
        raise MalformedError(task.where, "expected annotations, as in the JSON export, got none, as in JSON-MIN")
    finished = _finished(list(task.get("annotations").items()))
    if finished is None:
        return LeftOut(what="tasks that nobody annotated")
    given = task.get("data")
    text = expect_text(given.get("text").string(), given.where)
    regions = _Regions()
    for item in finished.get("result").items():
        regions.add(item)
    entities, relations = regions.entities(text), tuple(regions.related())
    return SourceDocument(
        id=given.get("document").optional_name() or task.get("id").name(),
        text=text,
        entities=entities,
        relations=relations,
        patient=given.get("patient").optional_name(),
        left_out=regions.left_out,
    )


def _finished(annotations: Sequence[JsonValue]) -> JsonValue | None:
    """The one annotation that was not cancelled; None without any."""
    kept = [each for each in annotations if each.get("was_cancelled").value is not True]
    expect(len(kept) <= 1, kept[0].where if kept else "", f"expected one finished annotation a task, got {len(kept)}")
    return kept[0] if kept else None

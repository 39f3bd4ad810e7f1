"""Whatever a line holds, reading it gives a sound passage or problems that show none of it."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from site_agent.trainer.extraction.passage_records import parse_record
from site_agent.trainer.extraction.passages import Passage

# A word of no message of ours, in characters that no message of ours uses.
CANARY = "ŽǢ"
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 12) | st.floats(allow_nan=False) | st.just(CANARY) | st.just("drug"),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.just(CANARY), children, max_size=2),
    max_leaves=4,
)


def _objects(**fields: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """Objects that often have these fields, well or badly filled, and sometimes others."""
    optional: dict[str, st.SearchStrategy[object]] = {name: value | VALUES for name, value in fields.items()}
    return st.fixed_dictionaries({}, optional={**optional, CANARY: VALUES})


TEXTS = st.just(f"{CANARY} {CANARY} pain")
ENTITIES = _objects(
    id=st.sampled_from(["T1", "T2"]),
    type=st.sampled_from(["drug", "problem"]),
    start=st.just(0),
    end=st.sampled_from([2, 5]),
    text=st.sampled_from([CANARY, f"{CANARY} {CANARY}"]),
)
RELATIONS = _objects(type=st.just("treats"), head=st.just("T1"), tail=st.just("T2"))
RECORDS = _objects(
    id=st.just("p-1"),
    text=TEXTS,
    entities=st.lists(ENTITIES, max_size=3),
    relations=st.lists(RELATIONS, max_size=2),
    meta=_objects(doc=st.just("d-1")),
)


def faults(line: bytes) -> list[str]:
    """What is wrong with the outcome of reading ``line``, be it a passage or the problems of the line."""
    outcome = parse_record(line)
    if not isinstance(outcome, Passage):
        shown = any(character in problem for problem in outcome for character in CANARY)
        return ["refused without a problem"] * (not outcome) + ["a problem shows the record"] * shown
    ids = [entity.id for entity in outcome.entities]
    inside = all(0 <= entity.start < entity.end <= len(outcome.text) for entity in outcome.entities)
    related = all({relation.head, relation.tail} <= set(ids) for relation in outcome.relations)
    return (
        ["ids repeated"] * (len(ids) > len(set(ids)))
        + ["an entity outside the text"] * (not inside)
        + ["a relation to nothing"] * (not related)
    )


@settings(deadline=None)
@given(RECORDS | VALUES)
def test_a_record_is_sound_or_its_problems_show_nothing_of_it(record: object) -> None:
    assert faults(json.dumps(record).encode()) == []


@settings(deadline=None)
@given(st.binary() | st.text().map(str.encode), st.sampled_from([b"%s", b'{"id": "%s', b'{"id": "p", "text": %s}']))
def test_arbitrary_bytes_are_refused_or_sound(content: bytes, around: bytes) -> None:
    assert faults(around % content) == []

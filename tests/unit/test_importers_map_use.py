"""What an import tells of its type map: entries that match nothing, and what ``"*"`` dropped."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from site_agent.trainer.extraction.importers.importing import Import
from site_agent.trainer.extraction.importers.labels import Wording
from site_agent.trainer.extraction.importers.source import SourceDocument, SourceEntity, SourceRelation
from site_agent.trainer.extraction.importers.type_map import TypeMap
from tests.fakes.importing import CANARY, imported

DROPPED = 'left out or changed: dropped by "*" of the type map\'s'
IDLE = "worth a look: entries of the type map's"
DOCUMENT = SourceDocument(
    id="d",
    text=f"No fever, aspirin given to {CANARY}.",
    entities=(
        SourceEntity(id="T1", type="Sign", start=3, end=8, attributes=(("Negated", ""), ("Sure", CANARY))),
        SourceEntity(id="T2", type="Dose", start=10, end=17),
        SourceEntity(id="T3", type="Dose", start=18, end=23),
        SourceEntity(id="T4", type="Age", start=0, end=2),
    ),
    relations=(SourceRelation(type="for", head="T1", tail="T2"), SourceRelation(type="of", head="T2", tail="T1")),
)


def told(types: TypeMap, *documents: SourceDocument) -> list[str]:
    """What is told after an import of these documents."""
    run = Import(types=types)
    imported(run, *documents)
    assert run.problems.total == 0
    sentences = list(run.use.told(types))
    assert CANARY not in "".join(sentences)
    return sentences


def test_what_a_star_dropped_is_told_by_type_with_counts() -> None:
    types = TypeMap(entities={"Sign": "problem", "*": "drop"}, relations={"*": "drop"}, attributes={"*": "drop"})

    assert told(types, DOCUMENT, replace(DOCUMENT, id="e", relations=())) == [
        f'{DROPPED} [attributes]: "Negated" 2, "Sure" 2',
        f'{DROPPED} [entities]: "Dose" 4, "Age" 2',
        f'{DROPPED} [relations]: "for" 1, "of" 1',
    ]


def test_a_type_that_is_listed_or_that_the_star_keeps_is_not_told() -> None:
    types = TypeMap(
        entities={"Sign": "drop", "*": "problem"},
        relations={"for": "drop", "*": "treats"},
        attributes={"Negated": "drop", "*": "negation"},
    )

    assert told(types, DOCUMENT) == []


def test_entries_that_match_nothing_are_told_by_table() -> None:
    types = TypeMap(
        entities={"Sgn": "problem", "Dose": "dosage", "*": "drop"},
        relations={"For": "treats", "for": "treats", "of": "drop"},
        attributes={"Sure=no": "drop", "Sure": "drop", "Negated": "negation", "x" * 41: "drop"},
        reversed=frozenset({"of", "on"}),
    )

    assert told(types, DOCUMENT)[1:] == [
        f'{IDLE} [attributes] that match nothing: "Sure=no", a name of 41 characters',
        f'{IDLE} [entities] that match nothing: "Sgn"',
        f'{IDLE} [relations] that match nothing: "For"',
        f'{IDLE} [reversed] that match nothing: "on"',
    ]


def test_an_entry_with_a_value_is_matched_by_that_value_alone() -> None:
    types = TypeMap(
        entities={"*": "problem"},
        relations={"*": "treats"},
        attributes={"Negated": "drop", f"Sure={CANARY}": "drop", "Sure": "drop"},
    )

    assert told(types, DOCUMENT) == [f'{IDLE} [attributes] that match nothing: "Sure"']


def test_attributes_of_an_entity_that_is_dropped_are_not_counted_again() -> None:
    types = TypeMap(entities={"*": "drop"}, relations={"*": "drop"}, attributes={"Sure": "drop", "*": "drop"})

    assert [sentence.split(" [")[1].split("]")[0] for sentence in told(types, DOCUMENT)] == ["entities", "relations"]


def test_what_may_be_text_instead_of_a_type_is_told_by_its_length() -> None:
    first, *others = DOCUMENT.entities
    document = replace(DOCUMENT, entities=(replace(first, type=f"given {CANARY}", attributes=()), *others))
    types = TypeMap(entities={"*": "drop"}, relations={"*": "drop"})

    assert told(types, document)[0] == (
        f'{DROPPED} [entities]: "Dose" 2, a name of 12 characters (first in one.txt, document 1) 1, "Age" 1'
    )


def test_only_so_many_types_are_told_and_the_rest_are_counted() -> None:
    entities = tuple(SourceEntity(id=f"T{n}", type=f"kind{n:04}", start=0, end=2) for n in range(500))
    (sentence,) = told(TypeMap(entities={"*": "drop"}), replace(DOCUMENT, entities=entities, relations=()))

    assert sentence.count("kind") == 101
    assert sentence.endswith(", others 399")


def test_types_that_are_told_alike_are_told_once_with_their_sum() -> None:
    types = (*(f"given {CANARY[:n]}" for n in (3, 4)), *(f"{word} {CANARY[:3]}" for word in ("fever", "to fever")))
    entities = tuple(SourceEntity(id=f"T{n}", type=kind, start=0, end=2) for n, kind in enumerate((*types, types[0])))
    (sentence,) = told(TypeMap(entities={"*": "drop"}), replace(DOCUMENT, entities=entities, relations=()))

    where = "(first in one.txt, document 1)"
    assert sentence == (
        f"{DROPPED} [entities]: a name of 9 characters {where} 3, a name of 10 characters {where} 1, "
        f"a name of 12 characters {where} 1"
    )


@pytest.mark.parametrize("entities", [{}, {"*": "drop"}])
def test_no_more_types_are_looked_for_in_the_text_than_are_kept(
    entities: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = Counter[str]()
    says = Wording.says
    monkeypatch.setattr(Wording, "says", lambda self, name, alone: asked.update([name]) or says(self, name, alone))
    found = tuple(SourceEntity(id=f"T{n}", type=f"a type {n}", start=0, end=2) for n in range(500))
    document = replace(DOCUMENT, entities=found, relations=())
    imported(Import(types=TypeMap(entities=entities)), document, replace(document, id="e"))

    assert set(asked) == {f"a type {n}" for n in range(101)}
    assert set(asked.values()) == {2}


def test_a_document_that_is_not_imported_uses_no_entry() -> None:
    types = TypeMap(entities={"*": "drop", "Dose": "dosage"}, relations={"*": "drop"}, attributes={"*": "drop"})
    run = Import(types=types)
    imported(run, replace(DOCUMENT, id=""))

    assert list(run.use.told(types)) == [f'{IDLE} [entities] that match nothing: "Dose"']

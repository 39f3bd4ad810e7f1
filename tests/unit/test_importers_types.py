"""Type maps: what a source's types become, what is dropped and counted, and that nothing unmapped passes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import InputInvalidError
from site_agent.trainer.extraction.importers.importing import Import
from site_agent.trainer.extraction.importers.jsonl_spans import read_jsonl
from site_agent.trainer.extraction.importers.mapping import ODD_EDGES, Unmapped, mapped
from site_agent.trainer.extraction.importers.source import SourceDocument, SourceEntity, SourceRelation
from site_agent.trainer.extraction.importers.type_map import TypeMap, load_type_map
from tests.fakes.importing import unit

DOCUMENT = SourceDocument(
    id="d",
    text="No fever, aspirin given.",
    entities=(
        SourceEntity(id="T1", type="Sign", start=3, end=8, attributes=(("Negated", ""),)),
        SourceEntity(id="T2", type="Chemical", start=10, end=17),
    ),
    relations=(SourceRelation(type="for", head="T1", tail="T2"),),
)
WHERE = "one.txt, document 1"
TYPES = TypeMap(
    entities={"Sign": "problem", "Chemical": "drug"},
    relations={"for": "treats"},
    attributes={"Negated": "drop"},
    reversed=frozenset({"for"}),
)


def apply(types: TypeMap, document: SourceDocument = DOCUMENT) -> tuple[SourceDocument, Counter[str]]:
    tally, unmapped = Counter[str](), Unmapped()
    outcome = mapped(document, types, tally, unmapped, WHERE)
    assert list(unmapped.problems()) == []
    return outcome, +tally


def missing(types: TypeMap, document: SourceDocument = DOCUMENT) -> list[str]:
    unmapped = Unmapped()
    mapped(document, types, Counter(), unmapped, WHERE)
    return list(unmapped.problems())


def test_entities_and_relations_get_the_types_of_the_schema() -> None:
    document, tally = apply(TYPES)

    assert [one.type for one in document.entities] == ["problem", "drug"]
    assert tally == {"attributes dropped": 1}


def test_a_relation_that_is_listed_as_reversed_is_turned_round() -> None:
    assert apply(TYPES)[0].relations == (SourceRelation(type="treats", head="T2", tail="T1"),)
    assert apply(replace(TYPES, reversed=frozenset()))[0].relations[0].head == "T1"


def test_names_of_the_schema_stand_for_themselves_unless_the_map_says_otherwise() -> None:
    types = TypeMap(entities={"test": "drop"})

    assert [types.entity(name) for name in ("drug", "test", "Drug")] == ["drug", "drop", None]
    assert [types.relation(name) for name in ("treats", "CID")] == ["treats", None]


def test_a_star_stands_for_what_is_not_listed() -> None:
    types = TypeMap(entities={"*": "drop", "Sign": "problem"}, relations={"*": "drop"}, attributes={"*": "drop"})

    assert [types.entity(name) for name in ("Sign", "drug", "Age")] == ["problem", "drug", "drop"]
    assert (types.relation("x"), types.attribute("x", "")) == ("drop", "drop")


def test_a_relation_of_a_dropped_entity_is_dropped_and_counted() -> None:
    document, tally = apply(replace(TYPES, entities={"Sign": "problem", "Chemical": "drop"}))

    assert document.relations == ()
    assert tally == {"entities of dropped types": 1, "relations to a dropped entity": 1, "attributes dropped": 1}


def test_an_attribute_can_become_a_modifier_in_the_place_of_its_entity() -> None:
    document, _ = apply(replace(TYPES, attributes={"Negated": "negation"}))
    modifier = document.entities[2]

    assert (modifier.type, modifier.start, modifier.end) == ("negation", 3, 8)
    assert document.relations[-1] == SourceRelation(type="hasAttr", head="T1", tail=modifier.id)


def test_an_attribute_can_take_its_entity_with_it() -> None:
    document, tally = apply(replace(TYPES, attributes={"Negated": "drop-entity"}))

    assert [one.id for one in document.entities] == ["T2"]
    assert tally["entities dropped for an attribute"] == 1


def test_an_attribute_with_its_value_goes_before_the_attribute_alone() -> None:
    types = TypeMap(attributes={"Certainty=low": "uncertain", "Certainty": "drop"})

    assert [types.attribute("Certainty", value) for value in ("low", "high")] == ["uncertain", "drop"]


def test_entities_that_become_the_same_are_one_and_keep_their_relations() -> None:
    twin = SourceEntity(id="T3", type="problem", start=3, end=8)
    relation = SourceRelation(type="treats", head="T2", tail="T3")
    both = replace(DOCUMENT, entities=(*DOCUMENT.entities, twin), relations=(*DOCUMENT.relations, relation))
    document, tally = apply(TYPES, both)

    assert [one.id for one in document.entities] == ["T1", "T2"]
    assert document.relations == (SourceRelation(type="treats", head="T2", tail="T1"),)
    assert tally["entities twice in one place, kept once"] == 1


def test_every_type_that_is_not_mapped_is_listed_by_its_table() -> None:
    assert missing(TypeMap()) == [
        'type map: expected every type of the source in [attributes], missing: "Negated"',
        'type map: expected every type of the source in [entities], missing: "Chemical", "Sign"',
        'type map: expected every type of the source in [relations], missing: "for"',
    ]


@pytest.mark.parametrize("name", ["fever", "Fever", "a sentence of the note it is", "x" * 41, "red\nblue", "a\x1b[31m"])
def test_what_may_be_text_instead_of_a_type_is_told_by_its_length_alone(name: str) -> None:
    document = replace(DOCUMENT, entities=(SourceEntity(id="T1", type=name, start=3, end=8),), relations=())

    assert missing(TypeMap(), document)[0].endswith(f"missing: a name of {len(name)} characters (first in {WHERE})")


@pytest.mark.parametrize("value", ["John Smith", "low", "x" * 41, "red\nblue"])
def test_the_value_of_an_attribute_is_told_by_its_length_alone(value: str) -> None:
    document = replace(DOCUMENT, entities=(replace(DOCUMENT.entities[0], attributes=(("Note", value),)),), relations=())

    assert missing(replace(TYPES, attributes={}), document) == [
        "type map: expected every type of the source in [attributes], missing: "
        f'"Note" with a value of {len(value)} characters'
    ]


@pytest.mark.parametrize("name", ["fever", "a sentence of the note it is"])
def test_an_attribute_whose_name_may_be_text_is_told_by_its_length_alone(name: str) -> None:
    document = replace(DOCUMENT, entities=(replace(DOCUMENT.entities[0], attributes=((name, "yes"),)),), relations=())

    (told,) = missing(replace(TYPES, attributes={}), document)
    assert told.endswith(f"missing: a name of {len(name)} characters with a value of 3 characters (first in {WHERE})")


def with_name(table: str, name: str) -> SourceDocument:
    """A document with ``name`` as the type of its second entity, of an attribute of that, or of a relation."""
    first, second = DOCUMENT.entities
    if table == "entities":
        return replace(DOCUMENT, entities=(first, replace(second, type=name)))
    if table == "attributes":
        return replace(DOCUMENT, entities=(first, replace(second, attributes=((name, ""),))))
    return replace(DOCUMENT, relations=(SourceRelation(type=name, head="T1", tail="T2"),))


KNOWN = replace(TYPES, entities={"Sign": "problem", "Chemical": "drug"})
HIDDEN, SHOWN = True, False


@pytest.mark.parametrize("table", ["entities", "attributes", "relations"])
@pytest.mark.parametrize(
    ("name", "is_hidden"),
    [
        ("Aspirin", HIDDEN),  # an entity's words
        ("fever", HIDDEN),  # another entity's
        ("aspirin given", HIDDEN),
        ("No aspirin", HIDDEN),  # words that the text has apart
        ("no rash", SHOWN),
        ("Lab value", SHOWN),
        ("Dose", SHOWN),
    ],
)
def test_a_name_of_several_words_of_the_text_or_of_an_entity_is_told_by_its_length_and_its_document(
    table: str, name: str, is_hidden: bool
) -> None:
    (told,) = missing(KNOWN, with_name(table, name))
    length = f"a name of {len(name)} characters (first in {WHERE})"

    assert told == f"type map: expected every type of the source in [{table}], missing: " + (
        length if is_hidden else f'"{name}"'
    )


@pytest.mark.parametrize(
    ("name", "is_hidden"),
    [
        ("given", HIDDEN),
        ("Give", HIDDEN),
        ("NO", HIDDEN),
        ("iv", SHOWN),
        ("or", SHOWN),
        ("gave", SHOWN),
        ("胸痛", HIDDEN),
    ],
)
def test_a_relations_name_of_one_word_that_the_text_has_is_told_so_too(name: str, is_hidden: bool) -> None:
    document = with_name("relations", name)
    (told,) = missing(KNOWN, replace(document, text=f"{document.text} 患者胸痛"))

    assert (f"missing: a name of {len(name)} characters (first in " in told) == is_hidden
    assert (f'missing: "{name}"' in told) != is_hidden


def test_a_name_that_is_a_label_in_one_document_is_told_although_another_has_it_as_a_word() -> None:
    document = with_name("relations", "given")
    for texts in (
        ("No fever, aspirin given.", "No fever, aspirin taken."),
        ("No fever, aspirin taken.", document.text),
    ):
        unmapped = Unmapped()
        for text in texts:
            mapped(replace(document, text=text), KNOWN, Counter(), unmapped, WHERE)

        assert list(unmapped.problems()) == [
            'type map: expected every type of the source in [relations], missing: "given"'
        ]


def test_words_that_one_document_has_are_told_by_their_length_although_another_has_not() -> None:
    document = with_name("relations", "aspirin given")
    for texts in (
        ("No fever, aspirin given.", "No fever, aspirin taken."),
        ("No fever, aspirin taken.", "No fever, aspirin given."),
    ):
        unmapped = Unmapped()
        for text in texts:
            mapped(replace(document, text=text), KNOWN, Counter(), unmapped, WHERE)

        assert list(unmapped.problems()) == [
            "type map: expected every type of the source in [relations], missing: "
            f"a name of 13 characters (first in {WHERE})"
        ]


def test_an_entitys_or_attributes_name_of_one_word_is_a_label_although_the_text_has_it() -> None:
    for table in ("entities", "attributes"):
        assert missing(KNOWN, with_name(table, "Given"))[0].endswith('missing: "Given"')


@pytest.mark.parametrize(
    ("text", "places", "expected"),
    [
        ("No fever.", [(3, 8), (0, 2), (0, 9)], 0),
        ("No fever.", [(4, 8), (3, 7), (3, 9)], 2),
        ("No fever.", [(2, 8), (3, 8), (0, 3)], 2),
        ("T4: 5mg x2", [(4, 5), (4, 7), (9, 10)], 2),
        ("naïve-œdème's", [(0, 5), (6, 11), (6, 13), (0, 2)], 1),
        ("fever", [(0, 5), (0, 1), (1, 5)], 2),
    ],
)
def test_entities_whose_edges_cut_words_or_are_white_space_are_counted(
    text: str, places: list[tuple[int, int]], expected: int
) -> None:
    entities = tuple(
        SourceEntity(id=f"T{n}", type="problem", start=start, end=end, attributes=(("Negated", ""),))
        for n, (start, end) in enumerate(places)
    )
    document = SourceDocument(id="d", text=text, entities=entities)

    assert apply(TypeMap(attributes={"Negated": "negation"}), document)[1][ODD_EDGES] == expected


def test_offsets_of_another_unit_without_words_to_go_by_are_seen_by_their_edges() -> None:
    text = "😷 No fever on aspirin, and no rash."
    spans = [(text.index(words), text.index(words) + len(words)) for words in ("fever", "aspirin", "rash")]
    runs = []
    for shift in (0, 1):  # characters, then UTF-16 units, of which the emoji has two
        run = Import(types=TypeMap(entities={"Sign": "problem"}))
        label = [[start + shift, end + shift, "Sign"] for start, end in spans]
        assert list(run.passages(read_jsonl, [unit(json.dumps({"text": text, "label": label}))]))
        runs.append(run)

    assert [run.left_out[ODD_EDGES] for run in runs] == [0, 3]
    assert [run.problems.total for run in runs] == [0, 0]


def test_only_so_many_types_are_listed() -> None:
    entities = tuple(SourceEntity(id=f"T{n}", type=f"kind{n:04}", start=0, end=2) for n in range(500))
    (told,) = missing(TypeMap(), replace(DOCUMENT, entities=entities, relations=()))

    assert told.count("kind") == 100
    assert told.endswith("and others")


def test_a_type_map_is_read_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "map.toml"
    path.write_text(
        'reversed = ["of"]\n[entities]\nDx = "problem"\n"*" = "drop"\n'
        '[relations]\nof = "hasAttr"\n[attributes]\nNegated = "negation"\n'
    )
    types = load_type_map(path)

    assert [types.entity(name) for name in ("Dx", "Age")] == ["problem", "drop"]
    assert (types.relation("of"), types.reversed) == ("hasAttr", frozenset({"of"}))
    assert types.attribute("Negated", "") == "negation"


def test_a_malformed_type_map_is_refused_with_everything_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "map.toml"
    path.write_text('[entities]\nDx = "illness"\nRx = 1\n[relations]\nof = "drug"\n[attributes]\nx = "test"\n[more]\n')

    with pytest.raises(InputInvalidError) as caught:
        load_type_map(path)

    for key in ("entities.Dx: expected one of drop, drug", "entities.Rx", "relations.of", "attributes.x", "more"):
        assert key in caught.value.message

"""From documents to passages: where they are cut, what is kept together, what is dropped and counted."""

from __future__ import annotations

import pytest

from common.errors import InputInvalidError
from site_agent.trainer.extraction.importers import cutting
from site_agent.trainer.extraction.importers.cutting import ACROSS
from site_agent.trainer.extraction.importers.importing import Import
from site_agent.trainer.extraction.importers.source import Problem, SourceDocument, SourceEntity, SourceRelation
from site_agent.trainer.extraction.importers.type_map import TypeMap
from tests.fakes.importing import imported, related, words_of

TEXT = "Fever came first. Then a rash spread. Aspirin was given. It helped a lot."


def entity(entity_id: str, kind: str, words: str, *concepts: str, text: str = TEXT) -> SourceEntity:
    start = text.index(words)
    return SourceEntity(id=entity_id, type=kind, start=start, end=start + len(words), concepts=frozenset(concepts))


FEVER, RASH, ASPIRIN = entity("a", "problem", "Fever"), entity("b", "problem", "rash"), entity("c", "drug", "Aspirin")


def document(
    *relations: tuple[str, str], entities: tuple[SourceEntity, ...] = (FEVER, RASH, ASPIRIN)
) -> SourceDocument:
    found = tuple(SourceRelation(type="treats", head=head, tail=tail) for head, tail in relations)
    return SourceDocument(id="d", text=TEXT, entities=entities, relations=found)


def test_a_short_document_is_one_passage_with_all_its_entities() -> None:
    (passage,) = imported(Import(types=TypeMap()), document(("c", "a")))

    assert (passage.id, passage.document, passage.text) == ("d-0", "d", TEXT)
    assert words_of(passage) == [("problem", "Fever"), ("problem", "rash"), ("drug", "Aspirin")]
    assert related([passage]) == [("treats", "Aspirin", "Fever")]


def test_a_longer_one_is_cut_at_sentence_ends_and_offsets_are_those_of_the_passage() -> None:
    passages = imported(Import(types=TypeMap(), max_words=7), document())

    assert [passage.text for passage in passages] == [
        "Fever came first. Then a rash spread.",
        "Aspirin was given. It helped a lot.",
    ]
    assert [words_of(passage) for passage in passages] == [
        [("problem", "Fever"), ("problem", "rash")],
        [("drug", "Aspirin")],
    ]


def test_a_passage_ends_earlier_where_it_would_part_two_related_entities() -> None:
    run = Import(types=TypeMap(), max_words=7)
    passages = imported(run, document(("c", "b")))

    assert [len(passage.text.split()) for passage in passages] == [3, 7, 4]
    assert related(passages) == [("treats", "Aspirin", "rash")]
    assert ACROSS not in run.left_out


def test_a_relation_too_long_for_a_passage_is_dropped_and_counted() -> None:
    run = Import(types=TypeMap(), max_words=7)
    passages = imported(run, document(("c", "a")))

    assert len(passages) == 2
    assert related(passages) == []
    assert run.left_out[ACROSS] == 1


def test_no_entity_is_cut_however_long_it_is() -> None:
    long = SourceEntity(id="x", type="problem", start=11, end=60)
    passages = imported(Import(types=TypeMap(), max_words=3), document(entities=(long,)))

    assert [words_of(passage) for passage in passages] == [[("problem", TEXT[11:60])]]


def test_white_space_at_the_edges_of_an_entity_stays_in_the_passage() -> None:
    wide = SourceEntity(id="x", type="problem", start=11, end=18)
    passages = imported(Import(types=TypeMap(), max_words=1), document(entities=(wide,)))

    assert [words_of(passage) for passage in passages] == [[("problem", "first. ")], [], [], []]


def test_white_space_before_the_first_word_stays_where_an_entity_has_it() -> None:
    one = SourceDocument(id="d", text="  Fever.", entities=(SourceEntity(id="x", type="problem", start=1, end=7),))

    assert words_of(imported(Import(types=TypeMap()), one)[0]) == [("problem", " Fever")]


def test_relations_of_concepts_hold_between_all_their_mentions_in_one_sentence() -> None:
    text = "Lithium and lithium carbonate cause tremor. Tremor ended without lithium."
    lithium = SourceEntity(id="c", type="drug", start=65, end=72, concepts=frozenset({"D1"}))
    entities = (
        entity("a", "drug", "Lithium", "D1", text=text),
        entity("b", "drug", "lithium carbonate", "D1", text=text),
        entity("x", "problem", "tremor", "D2", text=text),
        entity("y", "problem", "Tremor", "D3", text=text),
        lithium,
    )
    said = (
        SourceRelation(type="adverse_effect", head="D1", tail="D2"),
        SourceRelation(type="adverse_effect", head="D1", tail="D9"),
    )
    one = SourceDocument(id="d", text=text, entities=entities, concept_relations=said)

    assert related(imported(Import(types=TypeMap()), one)) == [
        ("adverse_effect", "Lithium", "tremor"),
        ("adverse_effect", "lithium carbonate", "tremor"),
    ]


def test_more_relations_than_can_be_meant_are_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "MAX_RELATIONS", 3)
    entities = tuple(
        SourceEntity(id=f"{n}", type="problem", start=n, end=n + 1, concepts=frozenset({"D"})) for n in range(4)
    )
    said = (SourceRelation(type="treats", head="D", tail="D"),)
    run = Import(types=TypeMap())

    assert imported(run, SourceDocument(id="d", text=TEXT, entities=entities, concept_relations=said)) == []
    assert run.problems.shown == ["one.txt, document 1: expected at most 3 relations, got more"]


def test_a_document_of_white_space_has_no_passage_and_is_counted() -> None:
    run = Import(types=TypeMap())

    assert imported(run, SourceDocument(id="d", text=" \n", entities=())) == []
    assert run.left_out == {"documents without a word": 1}


def test_the_patient_is_the_sources_unless_the_site_says_otherwise() -> None:
    run = Import(types=TypeMap(), patients={"x": "p-2"})
    texts = [
        SourceDocument(id=name, text="Fever", entities=(), patient=patient)
        for name, patient in (("x", "p-1"), ("y", "p-1"), ("z", None))
    ]

    assert [passage.patient for passage in imported(run, *texts)] == ["p-2", "p-1", None]


def test_problems_of_some_documents_do_not_lose_the_others() -> None:
    run = Import(types=TypeMap())
    passages = imported(run, Problem(where="line 1", what="expected a, got b"), document())

    assert [passage.id for passage in passages] == ["d-0"]
    assert run.problems.shown == ["line 1: expected a, got b"]


def test_a_document_id_used_twice_is_a_problem() -> None:
    run = Import(types=TypeMap())
    imported(run, document(), document())

    assert run.problems.shown == ["one.txt, document 2: expected every document id once, got one repeated"]


@pytest.mark.parametrize(("name", "text"), [("", "Fever"), ("d\ud800", "Fever"), ("d", "Fever \udfff")])
def test_what_utf8_cannot_hold_and_a_document_without_an_id_are_problems(name: str, text: str) -> None:
    run = Import(types=TypeMap())

    assert imported(run, SourceDocument(id=name, text=text, entities=())) == []
    assert run.problems.total == 1


def test_a_source_with_unmapped_types_is_refused() -> None:
    run = Import(types=TypeMap())
    imported(run, document(entities=(SourceEntity(id="x", type="Sign", start=0, end=5),)))

    with pytest.raises(InputInvalidError, match='missing: "Sign"'):
        run.refuse_unmapped()

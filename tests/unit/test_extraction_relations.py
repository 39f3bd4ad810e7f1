"""Relations: what is asked about which head, word for word, and how answers come back with their places."""

from __future__ import annotations

import pytest

from common.errors import InputInvalidError
from common.label_schema import (
    ENTITY_TYPES,
    RELATION_TYPES,
    is_allowed_relation,
    relation_of,
    role_of,
)
from common.terms import PromptForm, TaskTerms
from site_agent.trainer.extraction.examples import Example
from site_agent.trainer.extraction.mentions import Mention
from site_agent.trainer.extraction.passages import Entity, Passage, Relation
from site_agent.trainer.extraction.prompts import build_answer, build_relation_prompt
from site_agent.trainer.extraction.relations import (
    RelationMention,
    all_roles,
    count_across_sentences,
    count_not_allowed,
    gold_head_examples,
    head_examples,
    merge_tails,
    relations_of,
    roles_to_ask,
)

TEXT = "No fever at all. Oral aspirin 5 mg for chest pain caused rash. Later severe."
TASK = TaskTerms(entity_types=("drug", "problem"), relation_types=RELATION_TYPES)
SPAN = TaskTerms(prompt_form=PromptForm.SPAN)


def entity(words: str, kind: str) -> Entity:
    start = TEXT.index(words)
    return Entity(id=words, type=kind, start=start, end=start + len(words))


PASSAGE = Passage(
    id="p",
    text=TEXT,
    entities=tuple(
        entity(words, kind)
        for words, kind in (
            ("No", "negation"),
            ("fever", "problem"),
            ("Oral", "route"),
            ("aspirin", "drug"),
            ("5 mg", "dosage"),
            ("chest", "bodyloc"),
            ("chest pain", "problem"),
            ("rash", "problem"),
            ("severe", "severity"),
        )
    ),
    relations=tuple(
        Relation(type=kind, head=head, tail=tail)
        for kind, head, tail in (
            ("hasAttr", "fever", "No"),
            ("hasAttr", "aspirin", "Oral"),
            ("hasAttr", "aspirin", "5 mg"),
            ("hasAttr", "chest pain", "chest"),
            ("treats", "aspirin", "chest pain"),
            ("adverse_effect", "aspirin", "rash"),
            ("hasAttr", "rash", "severe"),
            ("hasAttr", "chest pain", "5 mg"),  # no pair of the schema
        )
    ),
    document="d",
)
ROLES = {
    "drug": frozenset({"route", "dosage", "treats", "adverse_effect"}),
    "problem": frozenset({"negation", "bodyloc", "severity"}),
}


def words_of(example: Example, mention: Mention) -> str:
    return example.text[mention.start : mention.end]


def test_a_role_says_as_much_as_relation_and_tail_type() -> None:
    known = [
        (relation, head, tail)
        for relation in RELATION_TYPES
        for head in ENTITY_TYPES
        for tail in ENTITY_TYPES
        if is_allowed_relation(relation, head, tail)
    ]
    assert all(relation_of(role_of(relation, tail)) == (relation, tail) for relation, _, tail in known)
    assert len({(head, role_of(relation, tail)) for relation, head, tail in known}) == len(known) == 24


def test_what_a_set_is_asked_is_what_it_annotates_and_the_task_and_the_schema_want() -> None:
    assert roles_to_ask([PASSAGE], TASK) == ROLES
    only = TaskTerms(entity_types=("drug",), relation_types=("treats",))
    assert roles_to_ask([PASSAGE], only) == {"drug": frozenset({"treats"})}
    assert roles_to_ask([PASSAGE], TaskTerms()) == {}


def test_of_texts_that_nobody_annotated_everything_is_asked() -> None:
    assert all_roles(TaskTerms(relation_types=("adverse_effect", "treats"))) == {"drug": {"adverse_effect", "treats"}}
    assert all_roles(TaskTerms(entity_types=("test",), relation_types=("hasAttr",))) == {
        "test": {"labvalue", "reference_range", "temporal", "negation"}
    }
    with pytest.raises(InputInvalidError, match="relation types"):
        all_roles(TaskTerms(relation_types=("cures",)))


def test_every_head_is_an_example_with_the_tails_that_stand_in_its_sentence() -> None:
    examples = gold_head_examples(PASSAGE, ROLES)
    found = [
        (
            words_of(example, example.head) if example.head else None,
            {(one.type, words_of(example, one)) for one in example.entities},
        )
        for example in examples
    ]
    assert found == [
        ("fever", {("negation", "No")}),
        (
            "aspirin",
            {("route", "Oral"), ("dosage", "5 mg"), ("treats", "chest pain"), ("adverse_effect", "rash")},
        ),
        ("chest pain", {("bodyloc", "chest")}),
        ("rash", set()),  # "severe" stands in another sentence
    ]


def test_heads_of_types_that_are_not_asked_about_are_no_examples() -> None:
    assert len(gold_head_examples(PASSAGE, {"drug": ROLES["drug"]})) == 1


def test_relations_across_sentences_are_counted() -> None:
    assert count_across_sentences(PASSAGE) == 1


def test_relations_that_the_schema_does_not_allow_are_counted() -> None:
    assert count_not_allowed(PASSAGE) == 1


def test_gold_answers_come_back_as_the_relations_that_can_be_asked_for() -> None:
    heads = [entity.mention for entity in PASSAGE.entities if entity.type in ROLES]
    asked = head_examples("p", TEXT, heads)
    gold = {(example.offset, example.head): example.entities for example in gold_head_examples(PASSAGE, ROLES)}
    merged = merge_tails(asked, [gold[example.offset, example.head] for example in asked])
    expected = {one for one in relations_of(PASSAGE) if is_allowed_relation(*one.kind)}
    assert expected - set(merged) == {
        RelationMention(
            type="hasAttr", head=entity("rash", "problem").mention, tail=entity("severe", "severity").mention
        )
    }
    assert set(merged) < expected


def test_a_head_is_never_cut_by_a_sentence_end() -> None:
    text = "Vit. B. Complex helps. Fine."
    (example,) = head_examples("p", text, [Mention(start=0, end=15, type="drug")])
    assert (example.text, example.head) == ("Vit. B. Complex helps.", Mention(start=0, end=15, type="drug"))


def test_the_same_head_twice_is_asked_about_once() -> None:
    head = Mention(start=0, end=2, type="drug")
    assert len(head_examples("p", "So it is.", [head, head])) == 1


def drug_example() -> Example:
    return next(one for one in gold_head_examples(PASSAGE, ROLES) if one.head is not None and one.head.type == "drug")


def test_a_json_question_names_the_roles_and_marks_the_head() -> None:
    *_, last = build_relation_prompt(TASK, drug_example(), ROLES["drug"])
    assert last.content == (
        "List adverse_effect (what it did harm), dosage, route, treats (what it is given for) of the marked drug "
        'in the text as JSON: [{"adverse_effect":"..."},{"dosage":"..."}]\n'
        'Text: Oral <span class="drug">aspirin</span> 5 mg for chest pain caused rash.'
    )
    assert build_answer(TASK, drug_example(), ROLES["drug"]) == (
        '[{"route":"Oral"},{"dosage":"5 mg"},{"treats":"chest pain"},{"adverse_effect":"rash"}]'
    )


def test_a_span_question_asks_for_the_sentence_without_the_mark() -> None:
    *_, last = build_relation_prompt(SPAN, drug_example(), ["dosage", "route"])
    assert last.content == (
        "Rewrite the text without its mark and with tags around dosage, route of the marked drug: "
        '<span class="dosage">...</span>, <span class="route">...</span>\n'
        'Text: Oral <span class="drug">aspirin</span> 5 mg for chest pain caused rash.'
    )
    assert build_answer(SPAN, drug_example(), ["dosage", "route"]) == (
        '<span class="route">Oral</span> aspirin <span class="dosage">5 mg</span> for chest pain caused rash.'
    )


def test_worked_examples_show_their_own_head() -> None:
    prompt = build_relation_prompt(TASK, drug_example(), ["route"], [drug_example()])
    assert prompt[1].content == prompt[3].content
    assert prompt[2].content == '[{"route":"Oral"}]'

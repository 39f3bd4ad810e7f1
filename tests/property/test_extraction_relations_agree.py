"""Relation scores against a brute-force oracle, and answers about heads: whatever a model wrote, never an exception."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from common.terms import PromptForm, TaskTerms
from site_agent.trainer.extraction.examples import Example
from site_agent.trainer.extraction.mentions import Mention
from site_agent.trainer.extraction.parsing import parse_answer
from site_agent.trainer.extraction.prompts import build_answer
from site_agent.trainer.extraction.relations import RelationMention, head_examples, is_asked, merge_tails
from site_agent.trainer.extraction.scoring import add_scores, f1, score_relations
from tests.fakes.scoring_oracles import most_matches, relations_match
from tests.property.test_extraction_parsing_holds import ANSWERS, SENTENCES

ROLES = {"drug": frozenset({"dosage", "treats"}), "problem": frozenset({"severity"})}
KINDS = (("treats", "drug", "problem"), ("hasAttr", "drug", "dosage"), ("hasAttr", "problem", "severity"))
# Pairs that nothing asks for, which must not count.
OTHER_KINDS = (("adverse_effect", "drug", "problem"), ("hasAttr", "test", "labvalue"))


@st.composite
def relations(draw: st.DrawFn, kinds: tuple[tuple[str, str, str], ...] = KINDS) -> list[RelationMention]:
    places = st.tuples(st.integers(0, 8), st.integers(1, 3))
    drawn = draw(st.lists(st.tuples(st.sampled_from(kinds), places, places), max_size=6))
    return [
        RelationMention(
            type=kind,
            head=Mention(start=head[0], end=head[0] + head[1], type=head_type),
            tail=Mention(start=tail[0], end=tail[0] + tail[1], type=tail_type),
        )
        for (kind, head_type, tail_type), head, tail in drawn
    ]


@settings(deadline=None, max_examples=200)
@given(relations(), relations())
def test_relations_match_as_the_best_assignment_makes_them(
    gold: list[RelationMention], predicted: list[RelationMention]
) -> None:
    scores = score_relations(gold, predicted, ROLES)
    for counts, typed, exact in (
        (scores.strict, True, True),
        (scores.lenient, True, False),
        (scores.strict_agnostic, False, True),
        (scores.lenient_agnostic, False, False),
    ):
        assert counts.true_positives == most_matches(gold, predicted, relations_match(typed=typed, exact=exact))
        assert (counts.predicted, counts.gold) == (len(predicted), len(gold))
    for one in scores.per_type:
        wanted, got = ([each for each in those if each.role == one.entity_type] for those in (gold, predicted))
        assert one.strict.true_positives == most_matches(wanted, got, relations_match(typed=True, exact=True))
        assert one.lenient.true_positives == most_matches(wanted, got, relations_match(typed=True, exact=False))


@settings(deadline=None)
@given(relations((*KINDS, *OTHER_KINDS)), relations((*KINDS, *OTHER_KINDS)))
def test_what_is_not_asked_for_is_not_scored(gold: list[RelationMention], predicted: list[RelationMention]) -> None:
    wanted, got = ([one for one in those if is_asked(one, ROLES)] for those in (gold, predicted))
    assert score_relations(gold, predicted, ROLES) == score_relations(wanted, got, ROLES)
    assert {one.entity_type for one in score_relations(gold, predicted, ROLES).per_type} == {
        "dosage",
        "severity",
        "treats",
    }


@settings(deadline=None)
@given(st.data(), relations(), relations())
def test_the_order_of_relations_changes_no_score(
    data: st.DataObject, gold: list[RelationMention], predicted: list[RelationMention]
) -> None:
    wanted, got = data.draw(st.permutations(gold)), data.draw(st.permutations(predicted))
    assert score_relations(wanted, got, ROLES) == score_relations(gold, predicted, ROLES)


@settings(deadline=None)
@given(relations())
def test_gold_relations_score_one_against_themselves(gold: list[RelationMention]) -> None:
    scores = score_relations(gold, gold, ROLES)
    assert f1(scores.strict) == f1(scores.lenient) == (1.0 if gold else 0.0)


@settings(deadline=None)
@given(relations(), relations())
def test_scores_of_passages_add_up(gold: list[RelationMention], predicted: list[RelationMention]) -> None:
    one = score_relations(gold, predicted, ROLES)
    both = add_scores([one, one])
    assert (both.strict.true_positives, both.strict.gold) == (2 * one.strict.true_positives, 2 * one.strict.gold)


@st.composite
def examples_with_heads(draw: st.DrawFn) -> Example:
    text = draw(SENTENCES.filter(bool))
    start = draw(st.integers(0, len(text) - 1))
    head = Mention(start=start, end=draw(st.integers(start + 1, len(text))), type="drug")
    return Example(text=text, entities=(), offset=draw(st.integers(0, 9)), passage_id="p", head=head)


@settings(deadline=None, max_examples=300)
@given(examples_with_heads(), ANSWERS, st.sampled_from(PromptForm))
def test_any_answer_gives_relations_of_the_head_with_sound_places_and_roles_that_were_asked_for(
    example: Example, answer: str, form: PromptForm
) -> None:
    parsed = parse_answer(form, example.text, answer, ROLES["drug"])
    for one in merge_tails([example], [parsed.entities]):
        assert example.head is not None
        assert one.head == example.head.moved(example.offset)
        assert is_asked(one, ROLES)
        assert example.offset <= one.tail.start < one.tail.end <= example.offset + len(example.text)


@settings(deadline=None)
@given(st.data(), st.sampled_from(PromptForm))
def test_a_truncated_answer_misses_what_is_cut_off_and_invents_nothing(data: st.DataObject, form: PromptForm) -> None:
    text = "Oral aspirin 5 mg twice for pain"
    tails = (Mention(start=0, end=4, type="route"), Mention(start=13, end=17, type="dosage"))
    example = Example(text=text, entities=tails, offset=0, passage_id="p", head=Mention(start=5, end=12, type="drug"))
    answer = build_answer(TaskTerms(prompt_form=form), example, ["route", "dosage"])
    cut = data.draw(st.integers(0, len(answer)))
    found = parse_answer(form, text, answer[:cut], ["route", "dosage"]).entities
    assert set(found) <= set(tails)
    assert cut < len(answer) or set(found) == set(tails)


@settings(deadline=None)
@given(st.lists(st.sampled_from(["pain. ", "aspirin ", "A rash! ", "\n\n", "x"]), max_size=12), st.data())
def test_each_given_head_is_asked_about_once_and_keeps_its_place(pieces: list[str], data: st.DataObject) -> None:
    text = "y" + "".join(pieces) + "y"
    starts = data.draw(st.lists(st.integers(0, len(text) - 1), max_size=4))
    heads = {Mention(start=start, end=start + 1, type="drug") for start in starts if text[start].isalnum()}
    examples = head_examples("p", text, list(heads))
    assert {example.head.moved(example.offset) for example in examples if example.head} == heads
    assert len(examples) == len(heads)
    assert all(text[one.offset : one.offset + len(one.text)] == one.text for one in examples)

"""Relations of real corpora, from passages to scores; skips, and says so, without them. No text is shown."""

from __future__ import annotations

import random
from functools import cache
from itertools import permutations

import pytest

from common.label_schema import ENTITY_TYPES, RELATION_TYPES
from common.terms import PromptForm, TaskTerms
from site_agent.trainer.extraction.mentions import Mention
from site_agent.trainer.extraction.parsing import parse_answer
from site_agent.trainer.extraction.passages import Passage
from site_agent.trainer.extraction.prompts import build_answer
from site_agent.trainer.extraction.relations import (
    RelationMention,
    count_across_sentences,
    gold_head_examples,
    head_examples,
    is_asked,
    merge_tails,
    relations_of,
    roles_to_ask,
)
from site_agent.trainer.extraction.scoring import add_scores, f1, score_relation_documents, score_relations
from tests.corpora import needs_corpora, passages

TASK = TaskTerms(entity_types=tuple(sorted(ENTITY_TYPES)), relation_types=tuple(sorted(RELATION_TYPES)))
# Strict F1 of perfect answers on the test split: relations across sentences cannot be asked for, nested tails not said.
CEILINGS = {"maccrobat": 0.98, "chia": 0.98, "phee": 0.99, "bc5cdr": 0.99}

pytestmark = needs_corpora


@cache
def perfect(name: str, form: PromptForm) -> list[tuple[RelationMention, ...]]:
    """What a model that answers exactly as it is taught finds, on sentences that were split without gold tails."""
    test_set = passages(name, "test")
    roles = roles_to_ask(test_set, TASK)
    return [_perfect(passage, form, {head: frozenset(those) for head, those in roles.items()}) for passage in test_set]


def _perfect(passage: Passage, form: PromptForm, roles: dict[str, frozenset[str]]) -> tuple[RelationMention, ...]:
    heads = [entity.mention for entity in passage.entities if entity.type in roles]
    asked = head_examples(passage.id, passage.text, heads)
    gold = {one.head.moved(one.offset): one for one in gold_head_examples(passage, roles) if one.head is not None}
    answers = []
    for example in asked:
        assert example.head is not None
        taught = gold[example.head.moved(example.offset)]
        labels = roles[example.head.type]
        answer = build_answer(TaskTerms(prompt_form=form), taught, labels)
        answers.append(parse_answer(form, taught.text, answer, labels).entities)
        assert taught.offset == example.offset, "no sentence ends inside an entity here"
    return merge_tails(asked, answers)


@pytest.mark.parametrize("form", PromptForm)
@pytest.mark.parametrize("name", CEILINGS)
def test_perfect_answers_score_as_high_as_sentences_let_them(name: str, form: PromptForm) -> None:
    test_set = passages(name, "test")
    roles = roles_to_ask(test_set, TASK)
    scores = add_scores(score_relation_documents(test_set, perfect(name, form), roles).values())
    across = sum(count_across_sentences(passage) for passage in test_set)
    print(f"{name} {form}: strict {f1(scores.strict):.4f}, {scores.strict.gold} relations, {across} across sentences")
    assert f1(scores.lenient) >= f1(scores.strict) >= CEILINGS[name]


@pytest.mark.parametrize("name", CEILINGS)
def test_the_relations_of_a_corpus_are_pairs_of_the_schema_where_they_are_asked_for(name: str) -> None:
    everything = passages(name, "train", "dev", "test")
    roles = roles_to_ask(everything, TASK)
    asked = sum(is_asked(one, roles) for passage in everything for one in relations_of(passage))
    every = sum(len(relations_of(passage)) for passage in everything)
    print(f"{name}: {asked} of {every} relations are of pairs that the schema allows")
    assert asked / every >= {"maccrobat": 0.75}.get(name, 0.99)


@pytest.mark.parametrize("name", CEILINGS)
def test_predictions_full_of_faults_are_scored_as_by_trying_every_assignment(name: str) -> None:
    """Predictions are gold relations with moved ends, wrong types, some missing, some twice, some made up."""
    roles = roles_to_ask(passages(name, "test"), TASK)
    compared = 0
    for number, passage in enumerate(passages(name, "test")):
        gold = [one for one in relations_of(passage) if is_asked(one, roles)][:5]
        predicted = _with_faults(gold, random.Random(number))[:5]
        scores = score_relations(gold, predicted, roles)
        asked = [one for one in predicted if is_asked(one, roles)]
        assert scores.strict.true_positives == _most(gold, asked, exact=True)
        assert scores.lenient.true_positives == _most(gold, asked, exact=False)
        assert (scores.lenient.predicted, scores.lenient.gold) == (len(asked), len(gold))
        compared += len(asked)
    assert compared > 100


def _with_faults(gold: list[RelationMention], draw: random.Random) -> list[RelationMention]:
    found = []
    for one in gold:
        fault = draw.choice(["none", "none", "head", "tail", "type", "missing", "twice"])
        if fault == "missing":
            continue
        head = _shifted(one.head, draw) if fault == "head" else one.head
        tail = _shifted(one.tail, draw) if fault == "tail" else one.tail
        kind = draw.choice(RELATION_TYPES) if fault == "type" else one.type
        found += [RelationMention(type=kind, head=head, tail=tail)] * (2 if fault == "twice" else 1)
    return found


def _shifted(mention: Mention, draw: random.Random) -> Mention:
    start = max(0, mention.start + draw.randint(-8, 8))
    return Mention(
        start=start, end=start + max(1, mention.end - mention.start + draw.randint(-3, 3)), type=mention.type
    )


def _most(gold: list[RelationMention], predicted: list[RelationMention], *, exact: bool) -> int:
    """The most matches of any one to one assignment."""
    fewer, more = sorted((gold, predicted), key=len)
    assignments = (zip(fewer, order, strict=True) for order in permutations(more, len(fewer)))
    return max((sum(_is_match(*pair, exact) for pair in pairs) for pairs in assignments), default=0)


def _is_match(one: RelationMention, other: RelationMention, exact: bool) -> bool:
    ends = ((one.head, other.head), (one.tail, other.tail))
    if one.type != other.type or any(here.type != there.type for here, there in ends):
        return False
    if exact:
        return all((here.start, here.end) == (there.start, there.end) for here, there in ends)
    return all(max(here.start, there.start) < min(here.end, there.end) for here, there in ends)

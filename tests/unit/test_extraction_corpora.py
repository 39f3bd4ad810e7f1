"""The way from notes to scores on real corpora; skips, and says so, without them.

``FEDMED_CORPORA`` names their folder; else it is looked for beside the project. Nothing printed or asserted here shows
text of a corpus.
"""

from __future__ import annotations

import dataclasses
from functools import cache

import pytest

from common.label_schema import ENTITY_TYPES, MAIN_TYPES
from common.terms import PromptForm, TaskTerms
from site_agent.trainer.extraction.examples import (
    Example,
    merge_predictions,
    training_examples,
    unlabelled_examples,
)
from site_agent.trainer.extraction.mentions import Mention, flatten
from site_agent.trainer.extraction.parsing import parse_answer
from site_agent.trainer.extraction.passages import Passage
from site_agent.trainer.extraction.prompts import build_answer
from site_agent.trainer.extraction.scoring import add_scores, f1, score_documents, scored_types
from tests.corpora import needs_corpora, passages

NAMES = ("maccrobat", "chia", "phee", "bc5cdr", "ncbi_disease")
# Strict F1 of perfect answers on the test split: what flat answers cannot say is lost (Chia nests entities most).
CEILINGS = {"maccrobat": 0.995, "chia": 0.96, "phee": 0.985, "bc5cdr": 0.999, "ncbi_disease": 0.99}

pytestmark = needs_corpora


def everything(name: str) -> tuple[Passage, ...]:
    return passages(name, "train", "dev", "test")


@cache
def everything_as_examples(name: str) -> list[Example]:
    return [example for passage in everything(name) for example in training_examples(passage)]


@pytest.mark.parametrize("name", NAMES)
def test_no_entity_is_lost_between_passages_and_training_examples(name: str) -> None:
    for passage in everything(name):
        examples = training_examples(passage)
        merged = merge_predictions(examples, [example.entities for example in examples])
        assert set(merged) == {entity.mention for entity in passage.entities}


@pytest.mark.parametrize("name", NAMES)
def test_sentences_hardly_ever_end_inside_an_entity(name: str) -> None:
    cut = sum(
        [example.text for example in training_examples(passage)]
        != [example.text for example in unlabelled_examples(passage.id, passage.text)]
        for passage in everything(name)
    )
    assert cut <= 2


@pytest.mark.parametrize("types", [MAIN_TYPES, ENTITY_TYPES], ids=["main", "all"])
@pytest.mark.parametrize("form", PromptForm)
@pytest.mark.parametrize("name", NAMES)
def test_answers_give_back_the_entities_that_they_were_built_from(
    name: str, form: PromptForm, types: tuple[str, ...]
) -> None:
    task = TaskTerms(entity_types=tuple(sorted(types)), prompt_form=form)
    examples = everything_as_examples(name)
    found = gold = whole = 0
    for example in examples:
        flat = flatten(one for one in example.entities if one.type in types)
        parsed = parse_answer(form, example.text, build_answer(task, example), types)
        assert not parsed.malformed
        found += len(set(flat) & set(parsed.entities))
        gold += len(flat)
        whole += parsed.entities == flat
    print(f"{name} {form}: {whole / len(examples):.4%} of answers, {found / gold:.4%} of entities")
    least = {PromptForm.SPAN: 1.0, PromptForm.JSON: 0.993}[form]
    assert whole / len(examples) >= least
    assert found / gold >= least


@pytest.mark.parametrize("form", PromptForm)
@pytest.mark.parametrize("name", NAMES)
def test_perfect_answers_score_nearly_one(name: str, form: PromptForm) -> None:
    task, test_set = TaskTerms(prompt_form=form), passages(name, "test")
    types = scored_types(test_set, task.entity_types)
    scores = add_scores(score_documents(test_set, [_perfect(task, passage) for passage in test_set], types).values())
    assert f1(scores.strict) >= CEILINGS[name]
    assert f1(scores.lenient) >= f1(scores.strict)


def _perfect(task: TaskTerms, passage: Passage) -> tuple[Mention, ...]:
    """What a model that answers exactly as it is taught finds, on sentences that were split without gold."""
    sentences = unlabelled_examples(passage.id, passage.text)
    return merge_predictions(sentences, [_answered(task, passage, sentence) for sentence in sentences])


def _answered(task: TaskTerms, passage: Passage, sentence: Example) -> tuple[Mention, ...]:
    moved = (entity.mention.moved(-sentence.offset) for entity in passage.entities)
    inside = tuple(one for one in moved if one.start >= 0 and one.end <= len(sentence.text))
    answer = build_answer(task, dataclasses.replace(sentence, entities=inside))
    return parse_answer(task.prompt_form, sentence.text, answer, task.entity_types).entities

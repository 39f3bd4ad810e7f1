"""Scores of what a real model predicts, against the oracles that the property tests hold scores against."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from common.terms import Quantization, TaskTerms
from demo.notes.generate import Split
from demo.notes.write import write_corpus
from site_agent.trainer.choices import choose_shots
from site_agent.trainer.extraction.examples import training_examples
from site_agent.trainer.extraction.mentions import Mention
from site_agent.trainer.extraction.passage_files import read_passages
from site_agent.trainer.extraction.scoring import add_scores, score_documents, score_mentions
from site_agent.trainer.training.answering import Reader, find_entities
from site_agent.trainer.training.base_model import load_base_model
from site_agent.trainer.training.examples import Question
from tests.fakes.scoring_oracles import (
    is_one_to_one,
    mentions_match,
    most_matches,
    neighbourhoods,
    nervaluate_counts,
    our_counts,
)

pytestmark = pytest.mark.slow

TYPES = ("drug", "problem", "test")
SITES = ("first", "second", "third")
SIZES = {Split.TRAIN: 12, Split.DEV: 1, Split.TEST: 3}
Predicted = Sequence[tuple[Sequence[Mention], Sequence[Mention]]]


@pytest.fixture(scope="module")
def predicted(real_base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Predicted:
    """Gold and predictions of passages in three house styles; the base model is shown three worked examples."""
    folder = tmp_path_factory.mktemp("corpora")
    write_corpus(folder, SITES, 5, SIZES)
    loaded = load_base_model(real_base_model, torch.device("cpu"), Quantization.NONE)
    reader = Reader(loaded=loaded, max_length=640, report=lambda done: None)
    found: list[tuple[Sequence[Mention], Sequence[Mention]]] = []
    for site in SITES:
        known, passages = (read_passages([folder / site / f"{split}.jsonl"]) for split in (Split.TRAIN, Split.TEST))
        shots = choose_shots([one for passage in known for one in training_examples(passage)], 3, TYPES, 1)
        question = Question(task=TaskTerms(entity_types=TYPES), labels=frozenset(TYPES), shots=shots)
        answers = find_entities(reader, question, [passage.text for passage in passages])
        gold = [[entity.mention for entity in passage.entities if entity.type in TYPES] for passage in passages]
        found += list(zip(gold, answers.entities, strict=True))
        by_document = score_documents(passages, answers.entities, TYPES)
        by_passage = [score_mentions(*one, TYPES) for one in zip(gold, answers.entities, strict=True)]
        assert add_scores(by_document.values()) == add_scores(by_passage)
    return found


def test_the_model_finds_some_entities_and_misses_some(predicted: Predicted) -> None:
    scores = add_scores(score_mentions(gold, found, TYPES) for gold, found in predicted)
    assert 0 < scores.strict.true_positives < min(scores.strict.gold, scores.strict.predicted)
    assert scores.strict.true_positives < scores.lenient_agnostic.true_positives


def test_nervaluate_agrees_where_nothing_overlaps_twice(predicted: Predicted) -> None:
    passages = [(gold, found) for gold, found in predicted if is_one_to_one(gold, found)]
    assert len(passages) >= len(predicted) // 3
    ours = our_counts(add_scores(score_mentions(*one, TYPES) for one in passages), TYPES)
    theirs = nervaluate_counts(passages, TYPES)
    assert {name: counts for name, counts in ours.items() if name in theirs} == theirs


def test_no_assignment_of_predictions_to_gold_matches_more(predicted: Predicted) -> None:
    """In each neighbourhood of mentions that overlap, where all assignments can be tried."""
    for gold, found in predicted:
        scores = score_mentions(gold, found, TYPES)
        counts = {"strict": 0, "lenient": 0, "strict_agnostic": 0, "lenient_agnostic": 0}
        for mine, theirs in neighbourhoods(gold, found):
            for name in counts:
                rule = mentions_match(typed="agnostic" not in name, exact=name.startswith("strict"))
                counts[name] += most_matches(mine, theirs, rule)
        assert counts == {name: getattr(scores, name).true_positives for name in counts}

"""Scores of what a trained model predicted on the real corpora, against other scorers; offsets are kept, no text.

`benchmarks/predictions.py` made the file, with the federated adapter of the experiment `relations`, seed 1.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.terms import TaskTerms
from site_agent.trainer.extraction.mentions import Mention
from site_agent.trainer.extraction.passages import Passage
from site_agent.trainer.extraction.relations import RelationMention, is_asked, relations_of, roles_to_ask
from site_agent.trainer.extraction.scoring import MatchScores, add_scores, score_mentions, score_relations
from tests.corpora import needs_corpora, passages
from tests.fakes.scoring_oracles import (
    is_one_to_one,
    mentions_match,
    most_matches,
    neighbourhoods,
    nervaluate_counts,
    our_counts,
    relations_match,
)

pytestmark = needs_corpora

TYPES = ("drug", "problem")
TASK = TaskTerms(entity_types=TYPES, relation_types=("adverse_effect", "hasAttr"))
KEPT = Path(__file__).with_name("predictions.jsonl")
RULES = {
    "strict": (True, True),
    "lenient": (True, False),
    "strict_agnostic": (False, True),
    "lenient_agnostic": (False, False),
}


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """A passage of a corpus, and what the model found in it."""

    passage: Passage
    entities: Sequence[Mention]
    relations: Sequence[RelationMention]

    @property
    def mentions(self) -> tuple[list[Mention], list[Mention]]:
        """Gold and predicted, of the types that were asked for."""
        gold = [entity.mention for entity in self.passage.entities if entity.type in TYPES]
        return gold, [one for one in self.entities if one.type in TYPES]


ByCorpus = Mapping[str, Sequence[Predicted]]


@pytest.fixture(scope="module")
def predicted() -> ByCorpus:
    """What was found in each corpus."""
    found = defaultdict(list)
    for line in KEPT.read_text().splitlines():
        kept = json.loads(line)
        passage = next(one for one in passages(kept["corpus"], "test") if one.id == kept["id"])
        relations = [
            RelationMention(type=kind, head=passage.entities[head].mention, tail=_mention(tail))
            for kind, head, tail in kept["relations"]
        ]
        entities = [_mention(one) for one in kept["entities"]]
        found[kept["corpus"]].append(Predicted(passage=passage, entities=entities, relations=relations))
    return found


def _mention(told: tuple[int, int, str]) -> Mention:
    return Mention(start=told[0], end=told[1], type=told[2])


def _relations(corpus: str, those: Sequence[Predicted]) -> list[tuple[list[RelationMention], list[RelationMention]]]:
    """Gold and predicted of each passage, of those that are asked for in this corpus."""
    roles = roles_to_ask(passages(corpus, "test"), TASK)
    return [
        (
            [one for one in relations_of(each.passage) if is_asked(one, roles)],
            [one for one in each.relations if is_asked(one, roles)],
        )
        for each in those
    ]


def _relation_scores(corpus: str, those: Sequence[Predicted]) -> MatchScores:
    roles = roles_to_ask(passages(corpus, "test"), TASK)
    return add_scores(score_relations(relations_of(each.passage), each.relations, roles) for each in those)


def test_the_model_found_much_and_missed_much_in_both_tasks(predicted: ByCorpus) -> None:
    """So that what follows is of real hits and real misses."""
    entities = add_scores(score_mentions(*one.mentions, TYPES) for those in predicted.values() for one in those)
    relations = add_scores(_relation_scores(*one) for one in predicted.items())
    for counts, least in ((entities, 100), (relations, 20)):
        assert least < counts.strict.true_positives < min(counts.strict.gold, counts.strict.predicted)
        assert counts.strict.true_positives < counts.lenient.true_positives


def test_nervaluate_agrees_on_every_corpus_where_nothing_overlaps_twice(predicted: ByCorpus) -> None:
    for those in predicted.values():
        passages = [one.mentions for one in those if is_one_to_one(*one.mentions)]
        assert len(passages) > len(those) / 2
        ours = our_counts(add_scores(score_mentions(*one, TYPES) for one in passages), TYPES)
        theirs = nervaluate_counts(passages, TYPES)
        assert {name: counts for name, counts in ours.items() if name in theirs} == theirs


@pytest.mark.parametrize("rule", RULES)
def test_no_assignment_of_predicted_entities_to_gold_ones_matches_more(predicted: ByCorpus, rule: str) -> None:
    typed, exact = RULES[rule]
    for one in (one for those in predicted.values() for one in those):
        best = sum(
            most_matches(*some, mentions_match(typed=typed, exact=exact)) for some in neighbourhoods(*one.mentions)
        )
        assert getattr(score_mentions(*one.mentions, TYPES), rule).true_positives == best


@pytest.mark.parametrize("rule", RULES)
def test_no_assignment_of_predicted_relations_to_gold_ones_matches_more(predicted: ByCorpus, rule: str) -> None:
    typed, exact = RULES[rule]
    for corpus, those in predicted.items():
        groups = [group for one in _relations(corpus, those) for group in neighbourhoods(*one)]
        best = sum(most_matches(*group, relations_match(typed=typed, exact=exact)) for group in groups)
        assert getattr(_relation_scores(corpus, those), rule).true_positives == best

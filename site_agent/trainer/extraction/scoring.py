"""F1 of entities and of relations: strict and lenient, type-aware and type-agnostic, by type and macro, and intervals.

Scores are counts, so that sets can be added; F1 is taken last. Only the types that a gold set annotates are scored,
since the absence of a type from a corpus says nothing about its texts. The metrics are those of the paper
(arXiv 2601.22124), whose authors print the type-agnostic number; type-aware micro F1 is the headline here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from site_agent.orders import DocumentCounts, F1Counts, F1Interval, FileCounts, TypeCounts
from site_agent.trainer.extraction.matching import M, lenient_counts, strict_counts
from site_agent.trainer.extraction.mentions import Mention
from site_agent.trainer.extraction.passages import Passage, annotated_types
from site_agent.trainer.extraction.relations import RelationMention, RolesByHead, is_asked, relations_of

_NONE = F1Counts(true_positives=0, predicted=0, gold=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchScores:
    """Counts of one set of passages: micro-averaged over types where type-aware."""

    strict: F1Counts = _NONE
    lenient: F1Counts = _NONE
    strict_agnostic: F1Counts = _NONE
    lenient_agnostic: F1Counts = _NONE
    per_type: tuple[TypeCounts, ...] = ()


def f1(counts: F1Counts) -> float:
    """``2 tp / (predicted + gold)``; 0 where nothing was to be found and nothing predicted, as in nervaluate."""
    total = counts.predicted + counts.gold
    return 2 * counts.true_positives / total if total else 0.0


def scored_types(passages: Iterable[Passage], asked: Collection[str]) -> frozenset[str]:
    """The types to score a gold set on: those that it annotates and that were asked for."""
    return annotated_types(passages) & frozenset(asked)


def score_mentions(gold: Iterable[Mention], predicted: Iterable[Mention], entity_types: Collection[str]) -> MatchScores:
    """Score what was predicted on one passage, on these types alone."""
    wanted = [mention for mention in gold if mention.type in entity_types]
    got = [mention for mention in predicted if mention.type in entity_types]
    return _score(wanted, got, entity_types, lambda mention: mention.type)


def score_relations(
    gold: Iterable[RelationMention], predicted: Iterable[RelationMention], roles: RolesByHead
) -> MatchScores:
    """Score the relations that were predicted on one passage, on these roles alone.

    A relation is found when its type and both its ends are: each of the same type and boundaries (strict), or with one
    character in common (lenient, one to one). Gold relations from one sentence to another count as missed.
    """
    wanted = [one for one in gold if is_asked(one, roles)]
    got = [one for one in predicted if is_asked(one, roles)]
    return _score(wanted, got, frozenset().union(*roles.values()), lambda one: one.role)


def _score(wanted: Sequence[M], got: Sequence[M], labels: Collection[str], label_of: Callable[[M], str]) -> MatchScores:
    per_type = []
    for label in sorted(labels):
        same = [one for one in wanted if label_of(one) == label], [one for one in got if label_of(one) == label]
        strict, lenient = strict_counts(*same, typed=True), lenient_counts(*same, typed=True)
        per_type.append(TypeCounts(entity_type=label, strict=strict, lenient=lenient))
    return MatchScores(
        strict=add_counts(counts.strict for counts in per_type),
        lenient=add_counts(counts.lenient for counts in per_type),
        strict_agnostic=strict_counts(wanted, got, typed=False),
        lenient_agnostic=lenient_counts(wanted, got, typed=False),
        per_type=tuple(per_type),
    )


def score_documents(
    passages: Sequence[Passage], predictions: Sequence[Iterable[Mention]], entity_types: Collection[str]
) -> Mapping[str, MatchScores]:
    """Scores of each document, from the entities predicted on each passage.

    Raises:
        ValueError: There are not as many predictions as passages.
    """
    return _by_document(
        (passage, score_mentions([entity.mention for entity in passage.entities], predicted, entity_types))
        for passage, predicted in zip(passages, predictions, strict=True)
    )


def score_relation_documents(
    passages: Sequence[Passage], predictions: Sequence[Iterable[RelationMention]], roles: RolesByHead
) -> Mapping[str, MatchScores]:
    """Scores of each document, from the relations predicted on each passage.

    Raises:
        ValueError: There are not as many predictions as passages.
    """
    return _by_document(
        (passage, score_relations(relations_of(passage), predicted, roles))
        for passage, predicted in zip(passages, predictions, strict=True)
    )


def _by_document(scored: Iterable[tuple[Passage, MatchScores]]) -> Mapping[str, MatchScores]:
    by_document: dict[str, list[MatchScores]] = {}
    for passage, scores in scored:
        by_document.setdefault(passage.document, []).append(scores)
    return {document: add_scores(scores) for document, scores in by_document.items()}


def add_counts(counts: Iterable[F1Counts]) -> F1Counts:
    """The counts of several sets as those of one."""
    added = list(counts)
    return F1Counts(
        true_positives=sum(one.true_positives for one in added),
        predicted=sum(one.predicted for one in added),
        gold=sum(one.gold for one in added),
    )


def add_scores(scores: Iterable[MatchScores]) -> MatchScores:
    """The scores of several sets as those of one; a type is in it when it is in any of them."""
    added = list(scores)
    by_type: dict[str, list[TypeCounts]] = {}
    for counts in (counts for one in added for counts in one.per_type):
        by_type.setdefault(counts.entity_type, []).append(counts)
    return MatchScores(
        strict=add_counts(one.strict for one in added),
        lenient=add_counts(one.lenient for one in added),
        strict_agnostic=add_counts(one.strict_agnostic for one in added),
        lenient_agnostic=add_counts(one.lenient_agnostic for one in added),
        per_type=tuple(
            TypeCounts(
                entity_type=entity_type,
                strict=add_counts(one.strict for one in same),
                lenient=add_counts(one.lenient for one in same),
            )
            for entity_type, same in sorted(by_type.items())
        ),
    )


def document_counts(scores: Iterable[tuple[int, MatchScores]]) -> tuple[DocumentCounts, ...]:
    """The scores of documents as a result tells them, each beside the number of its file."""
    return tuple(
        DocumentCounts(
            file=file,
            strict=one.strict,
            lenient=one.lenient,
            strict_agnostic=one.strict_agnostic,
            lenient_agnostic=one.lenient_agnostic,
        )
        for file, one in scores
    )


def file_counts(file: int, scores: Iterable[MatchScores], answers: int = 0, malformed: int = 0) -> FileCounts:
    """What a result tells of a file whose documents have these scores."""
    per_type = add_scores(scores).per_type
    return FileCounts(file=file, per_type=per_type, answers=answers, malformed_answers=malformed)


def macro_f1(counts: Iterable[F1Counts]) -> float:
    """Mean F1 over types (``strict`` or ``lenient`` of `MatchScores.per_type`), without those that have no gold."""
    scores = [f1(one) for one in counts if one.gold]
    return sum(scores) / len(scores) if scores else 0.0


def bootstrap_f1(
    per_document: Sequence[F1Counts], seed: int, resamples: int = 1000, confidence: float = 0.95
) -> F1Interval:
    """Percentile interval of the micro F1 over ``resamples`` draws of documents with replacement (Efron 1979).

    Documents, not mentions or passages, are drawn, since those of one document are not independent.
    """
    if not per_document:
        return F1Interval(low=0.0, high=0.0)
    counts = np.array([(one.true_positives, one.predicted + one.gold) for one in per_document], dtype=np.int64)
    random = np.random.default_rng(seed)
    scores = np.zeros(resamples)
    for index in range(resamples):
        matched, total = counts[random.integers(len(counts), size=len(counts))].sum(axis=0)
        scores[index] = 2 * matched / total if total else 0.0
    tail = (1 - confidence) / 2
    low, high = np.quantile(scores, (tail, 1 - tail))
    return F1Interval(low=float(low), high=float(high))

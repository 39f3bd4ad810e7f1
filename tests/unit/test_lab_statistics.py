"""Bootstrap by document: against the definition, draw by draw, and against the trainer's own F1."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lab.statistics import Part, difference, estimate, f1_of, value_of
from site_agent.orders import F1Counts
from site_agent.trainer.extraction.scoring import add_counts, f1
from tests.fakes.lab_findings import drawn_documents

DOCUMENTS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)).map(
        lambda drawn: (drawn[0], drawn[0] + drawn[1], drawn[0] + drawn[2])
    ),
    min_size=1,
    max_size=12,
)


def part(test_set: str, rows: list[tuple[int, int, int]]) -> Part:
    return Part(test_set=test_set, counts=np.array(rows, dtype=np.int64))


def drawn(test_set: str, quality: float, seed: int, documents: int = 40) -> Part:
    rows = drawn_documents(random.Random(seed), quality, documents)
    return part(test_set, [(one.true_positives, one.predicted, one.gold) for one in rows])


@given(DOCUMENTS)
def test_the_f1_of_documents_is_the_trainers_f1_of_their_sum(rows: list[tuple[int, int, int]]) -> None:
    counts = [F1Counts(true_positives=matched, predicted=predicted, gold=gold) for matched, predicted, gold in rows]

    assert f1_of(np.array(rows)) == pytest.approx(f1(add_counts(counts)))


def resampled_by_hand(score: list[Part], draws: dict[str, NDArray[np.int64]]) -> list[float]:
    """The score of each draw, with every drawn document copied into a set of its own."""
    scores = []
    for index in range(len(next(iter(draws.values())))):
        parts = [replace(one, counts=np.repeat(one.counts, draws[one.test_set][index], axis=0)) for one in score]
        scores.append(value_of(parts))
    return scores


def test_an_interval_is_that_of_the_scores_of_documents_drawn_again() -> None:
    score = [drawn("a", 0.3, 1), drawn("b", 0.6, 2, 25)]
    generator = np.random.default_rng(5)
    draws = {
        name: generator.multinomial(size, np.full(size, 1 / size), size=200) for name, size in (("a", 40), ("b", 25))
    }

    found = estimate(score, seed=5, resamples=200)

    low, high = np.quantile(resampled_by_hand(score, draws), (0.025, 0.975))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.value == pytest.approx((f1_of(score[0].counts) + f1_of(score[1].counts)) / 2)


def test_parts_of_one_pool_are_one_f1_in_the_value_and_in_every_draw() -> None:
    score = [drawn("a", 0.3, 1), drawn("b", 0.6, 2, 25)]
    together = [replace(one, pool=1) for one in score]
    generator = np.random.default_rng(5)
    draws = {
        name: generator.multinomial(size, np.full(size, 1 / size), size=200) for name, size in (("a", 40), ("b", 25))
    }

    found = estimate(together, seed=5, resamples=200)

    assert found.value == pytest.approx(f1_of(np.concatenate([one.counts for one in score])))
    low, high = np.quantile(resampled_by_hand(together, draws), (0.025, 0.975))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.value != pytest.approx(estimate(score).value)


def test_the_same_model_twice_differs_by_nothing_in_every_draw() -> None:
    score = [drawn("a", 0.3, 1), drawn("b", 0.6, 2)]

    same = difference(score, score)

    assert (same.value, same.low, same.high) == (0, 0, 0)
    assert not same.is_apart_from_zero


def test_a_paired_difference_is_surer_than_one_of_two_separate_draws() -> None:
    left = [drawn("a", 0.5, 1)]
    worse = left[0].counts.copy()
    worse[::4, 0] = np.maximum(0, worse[::4, 0] - 1)  # the same model, but for one mention in every fourth document
    right = [Part(test_set="a", counts=worse)]
    apart = [Part(test_set="elsewhere", counts=worse)]

    paired, separate = difference(left, right), difference(left, apart)

    assert paired.value == pytest.approx(separate.value)
    assert paired.is_apart_from_zero
    assert (paired.high - paired.low) < (separate.high - separate.low) / 2


def test_the_interval_of_more_documents_is_narrower() -> None:
    few, many = estimate([drawn("a", 0.5, 1, 20)]), estimate([drawn("a", 0.5, 1, 500)])

    assert (many.high - many.low) < (few.high - few.low) / 2


def test_parts_of_one_test_set_with_other_documents_are_refused() -> None:
    with pytest.raises(ValueError, match="a: expected the same documents"):
        difference([drawn("a", 0.5, 1, 20)], [drawn("a", 0.5, 1, 21)])


def test_parts_of_one_test_set_whose_documents_hold_other_gold_are_refused() -> None:
    left = drawn("a", 0.5, 1)
    shifted = Part(test_set="a", counts=np.roll(left.counts, 1, axis=0))  # the same documents in another order

    with pytest.raises(ValueError, match=r"a: expected the same gold in every part, got another in \d+ documents"):
        difference([left], [shifted])


def test_a_test_set_without_documents_is_refused() -> None:
    with pytest.raises(ValueError, match="empty: expected"):
        estimate([Part(test_set="empty", counts=np.zeros((0, 3), dtype=np.int64))])

"""The seeded choices: slices of a round, samples of passages, worked examples."""

from __future__ import annotations

import pytest

from site_agent.trainer.choices import choose_shots, examples_of_round, sample_in_order, shares_of, thinned
from site_agent.trainer.extraction.examples import Example
from site_agent.trainer.extraction.mentions import Mention


def sentence(number: int, *types: str, length: int = 60) -> Example:
    entities = tuple(Mention(start=index, end=index + 1, type=kind) for index, kind in enumerate(types))
    return Example(text=f"{number:03}".ljust(length, "x"), entities=entities, offset=0, passage_id="p")


def test_shares_add_up_and_differ_by_one_at_most() -> None:
    assert shares_of(5, 3) == [2, 2, 1]
    assert shares_of(2, 3) == [1, 1, 0]
    assert shares_of(0, 2) == [0, 0]


def test_zero_examples_a_round_means_all_in_their_order() -> None:
    assert examples_of_round(range(5), 0, round_number=3, seed=1) == [0, 1, 2, 3, 4]


def test_more_examples_a_round_than_there_are_means_all() -> None:
    assert examples_of_round(range(5), 9, round_number=2, seed=1) == [0, 1, 2, 3, 4]


def test_rounds_take_slices_that_do_not_overlap_until_all_came_once() -> None:
    slices = [examples_of_round(range(12), 4, round_number=number, seed=1) for number in (1, 2, 3)]
    assert sorted(one for taken in slices for one in taken) == list(range(12))


def test_after_all_came_once_the_order_starts_again() -> None:
    assert examples_of_round(range(12), 4, round_number=4, seed=1) == examples_of_round(range(12), 4, 1, seed=1)


def test_a_round_that_wraps_around_holds_no_example_twice() -> None:
    taken = examples_of_round(range(10), 7, round_number=2, seed=1)
    assert len(set(taken)) == 7


def test_another_seed_gives_another_slice() -> None:
    assert examples_of_round(range(100), 9, 1, seed=1) != examples_of_round(range(100), 9, 1, seed=2)


def test_a_sample_keeps_the_order_and_has_the_size_asked_for() -> None:
    sample = sample_in_order(range(100), 10, seed=3)
    assert sample == sorted(set(sample))
    assert len(sample) == 10


def test_a_sample_of_at_most_zero_is_everything() -> None:
    assert sample_in_order(range(3), 0, seed=3) == [0, 1, 2]


def test_shots_together_show_every_type_they_can() -> None:
    candidates = [*(sentence(number, "drug") for number in range(50)), sentence(98, "problem"), sentence(99, "test")]
    shots = choose_shots(candidates, 3, {"drug", "problem", "test"}, seed=1)
    assert {mention.type for shot in shots for mention in shot.entities} == {"drug", "problem", "test"}


def test_a_sentence_without_an_entity_asked_for_is_no_shot() -> None:
    assert choose_shots([sentence(1), sentence(2, "dosage")], 3, {"drug"}, seed=1) == ()


def test_neither_headings_nor_half_pages_are_shots() -> None:
    assert choose_shots([sentence(1, "drug", length=10), sentence(2, "drug", length=900)], 3, {"drug"}, seed=1) == ()


def test_the_same_seed_gives_the_same_shots() -> None:
    candidates = [sentence(number, "drug") for number in range(50)]
    assert choose_shots(candidates, 3, {"drug"}, seed=1) == choose_shots(candidates, 3, {"drug"}, seed=1)
    assert choose_shots(candidates, 3, {"drug"}, seed=1) != choose_shots(candidates, 3, {"drug"}, seed=2)


def kind_of(example: tuple[str, int]) -> tuple[object, bool]:
    """Of two groups, in which every number that four divides is full."""
    group, number = example
    return group, number % 4 != 0


EXAMPLES = [(group, number) for number in range(40) for group in ("entities", "relations")]


@pytest.mark.parametrize(("share", "empty"), [(0.2, 2), (0.5, 10), (0.75, 30), (0.9, 30)])
def test_of_each_group_at_most_that_share_is_empty_and_nothing_full_is_lost(share: float, empty: int) -> None:
    kept = thinned(EXAMPLES, kind_of, share, seed=1)
    for group in ("entities", "relations"):
        of_group = [number for name, number in kept if name == group]
        assert [number for number in of_group if number % 4 == 0] == list(range(0, 40, 4))
        assert len(of_group) - 10 == empty
    assert kept == sorted(kept, key=EXAMPLES.index)


def test_which_empty_ones_are_left_out_is_the_seeds_to_say() -> None:
    assert thinned(EXAMPLES, kind_of, 0.5, seed=1) == thinned(EXAMPLES, kind_of, 0.5, seed=1)
    assert thinned(EXAMPLES, kind_of, 0.5, seed=1) != thinned(EXAMPLES, kind_of, 0.5, seed=2)


def test_of_a_group_that_is_empty_altogether_nothing_is_left() -> None:
    assert thinned([("relations", 1), ("entities", 4)], kind_of, 0.5, seed=1) == [("entities", 4)]

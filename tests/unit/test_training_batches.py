"""Which examples go through the model together, and as what tensors."""

from __future__ import annotations

import random

import torch

from common.terms import TrainingTerms
from site_agent.trainer.training.batches import LENGTH_STEP, collate, plan_batches
from site_agent.trainer.training.tokens import TokenizedExample

CPU = torch.device("cpu")


def example(*ids: int, learned_from: int = 1) -> TokenizedExample:
    return TokenizedExample(ids=ids, learned_from=learned_from)


def examples_of_lengths(*lengths: int) -> list[TokenizedExample]:
    return [example(*range(length)) for length in lengths]


LENGTHS = random.Random(0).choices(range(20, 160), k=200)


def test_every_example_is_in_exactly_one_batch() -> None:
    examples = examples_of_lengths(*LENGTHS)
    planned = [one for batch in plan_batches(examples, TrainingTerms(), seed=1) for one in batch]
    assert sorted(len(one.ids) for one in planned) == sorted(LENGTHS)


def test_no_batch_has_more_examples_than_the_terms_say() -> None:
    batches = plan_batches(examples_of_lengths(*LENGTHS), TrainingTerms(batch_size=6), seed=1)
    assert max(map(len, batches)) == 6


def test_no_batch_has_more_tokens_than_the_terms_say_padding_included() -> None:
    terms = TrainingTerms(batch_size=100, tokens_per_batch=512)
    batches = plan_batches(examples_of_lengths(*LENGTHS), terms, seed=1)
    sizes = [collate(batch, CPU, share_prefix=False).ids.numel() for batch in batches]
    assert max(sizes) <= 512
    assert sum(sizes) / len(sizes) > 0.75 * 512


def test_an_example_longer_than_the_token_budget_goes_alone() -> None:
    batches = plan_batches(examples_of_lengths(10, 600, 10), TrainingTerms(tokens_per_batch=512), seed=1)
    assert sorted(len(batch) for batch in batches) == [1, 2]


def test_less_than_a_tenth_of_what_is_computed_is_padding() -> None:
    batches = plan_batches(examples_of_lengths(*LENGTHS), TrainingTerms(batch_size=4), seed=1)
    collated = [collate(batch, CPU, share_prefix=False) for batch in batches]
    padding = sum(batch.num_padding for batch in collated)
    assert padding / (padding + sum(batch.num_tokens for batch in collated)) < 0.1


def test_the_same_seed_gives_the_same_order_and_another_seed_another() -> None:
    examples = [example(*range(20), learned_from=number) for number in range(1, 20)]
    first, again, other = (plan_batches(examples, TrainingTerms(), seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_lengths_are_rounded_up_so_that_few_shapes_occur() -> None:
    batches = plan_batches(examples_of_lengths(*LENGTHS), TrainingTerms(), seed=1)
    widths = {collate(batch, CPU, share_prefix=False).ids.shape[1] for batch in batches}
    assert {width % LENGTH_STEP for width in widths} == {0}


def test_a_label_is_predicted_from_the_position_before_it() -> None:
    batch = collate([example(5, 6, 7, 8, learned_from=2), example(1, 2, 3, learned_from=2)], CPU)
    assert batch.rows.tolist() == [0, 0, 1]
    assert batch.columns.tolist() == [1, 2, 1]
    assert batch.targets.tolist() == [7, 8, 3]


def test_a_real_token_with_the_id_of_the_padding_is_learned_all_the_same() -> None:
    batch = collate([example(4, 0, learned_from=1)], CPU)
    assert batch.targets.tolist() == [0]


def test_the_prefix_that_all_examples_share_stands_there_once() -> None:
    batch = collate([example(9, 9, 1, 2, learned_from=3), example(9, 9, 3, 4, 5, learned_from=3)], CPU)
    assert batch.prefix.tolist() == [[9, 9]]
    assert batch.ids[:, :3].tolist() == [[1, 2, 0], [3, 4, 5]]
    assert batch.columns.tolist() == [0, 0, 1]
    assert batch.num_tokens == 2 + 2 + 3


def test_the_position_that_predicts_the_first_label_is_never_in_the_prefix() -> None:
    batch = collate([example(9, 9, 1, learned_from=2), example(9, 9, 2, learned_from=2)], CPU)
    assert batch.prefix.shape == (1, 1)
    assert batch.columns.tolist() == [0, 0]


def test_without_sharing_the_prefix_is_empty() -> None:
    batch = collate([example(9, 9, 1, learned_from=2)], CPU, share_prefix=False)
    assert batch.prefix.shape == (1, 0)

"""Fed-MedLoRA+ with several tasks: each weighed by itself, then combined; and the traps of weights from losses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.strategy_terms import FedMedLoraPlusTerms
from common.terms import AggregationTerms, Task, TaskTerms, WeightBy
from coordinator.domain.aggregation.fed_medlora_plus import FedMedLoraPlus
from coordinator.domain.aggregation.strategy import Contribution, Need, TaskContribution
from tests.fakes.coordinator_values import make_terms

BOTH = TaskTerms(relation_types=("treats",))
SIZES, LOSSES = st.integers(1, 10**6), st.floats(0, 20)
PARTS = st.tuples(SIZES, LOSSES)
SITES = st.lists(
    st.fixed_dictionaries({Task.ENTITIES: PARTS})
    | st.fixed_dictionaries({Task.RELATIONS: PARTS})
    | st.fixed_dictionaries({Task.ENTITIES: PARTS, Task.RELATIONS: PARTS}),
    min_size=1,
    max_size=6,
)

Site = dict[Task, tuple[int, float | None]]


def contribution(site: Site) -> Contribution:
    """A site with so many label tokens, and such a loss, in each of its tasks."""
    parts = tuple(
        TaskContribution(task=task, num_examples=1, num_label_tokens=size, validation_loss=loss)
        for task, (size, loss) in site.items()
    )
    # The loss of all tasks together is never used: any number shows that.
    return Contribution(
        num_examples=len(parts),
        num_label_tokens=sum(one.num_label_tokens for one in parts),
        validation_loss=3.0,
        tasks=parts,
    )


def weigh(sites: Sequence[Site], beta: float = 0.0, temperature: float = 1.0) -> tuple[float, ...]:
    parameters = FedMedLoraPlusTerms(size_exponent=beta, temperature=temperature)
    terms = AggregationTerms(strategy="fed_medlora_plus", fed_medlora_plus=parameters)
    strategy = FedMedLoraPlus(replace(make_terms(aggregation=terms), task=BOTH))
    return strategy.weigh([contribution(site) for site in sites], None)


def oracle(sites: Sequence[Site], beta: float, temperature: float) -> list[float]:
    """The formula of the docstring, term by term."""
    weights = [0.0] * len(sites)
    masses = {task: sum(site[task][0] ** beta for site in sites if task in site) for task in Task}
    for task in Task:
        raw = {
            k: site[task][0] ** beta * math.exp(-(site[task][1] or 0.0) / temperature)
            for k, site in enumerate(sites)
            if task in site
        }
        for k, share in raw.items():
            weights[k] += masses[task] / sum(masses.values()) * share / sum(raw.values())
    return weights


@given(SITES, st.floats(0, 2), st.floats(0.5, 100))
def test_weights_are_those_of_the_formula_and_sum_to_one(sites: list[Site], beta: float, temperature: float) -> None:
    weights = weigh(sites, beta, temperature)
    assert weights == pytest.approx(oracle(sites, beta, temperature), rel=1e-9)
    assert math.fsum(weights) == pytest.approx(1, abs=1e-12)


@given(st.lists(PARTS, min_size=1, max_size=8), st.floats(0, 10), st.floats(1e-3, 1e6), st.sampled_from(WeightBy))
def test_in_a_run_of_one_task_the_weights_are_to_the_bit_what_they_are_without_counts_by_task(
    parts: list[tuple[int, float]], beta: float, temperature: float, weight_by: WeightBy
) -> None:
    parameters = FedMedLoraPlusTerms(size_exponent=beta, temperature=temperature)
    terms = AggregationTerms(strategy="fed_medlora_plus", weight_by=weight_by, fed_medlora_plus=parameters)
    strategy = FedMedLoraPlus(make_terms(aggregation=terms))
    plain = [Contribution(num_examples=size, num_label_tokens=size, validation_loss=loss) for size, loss in parts]
    with_tasks = [
        Contribution(
            num_examples=size,
            num_label_tokens=size,
            validation_loss=loss,
            tasks=(
                TaskContribution(task=Task.ENTITIES, num_examples=size, num_label_tokens=size, validation_loss=loss),
            ),
        )
        for size, loss in parts
    ]
    assert strategy.weigh(with_tasks, None) == strategy.weigh(plain, None)


# Trap (c): one loss over everything.


def test_sites_that_have_relations_alone_are_not_starved_by_a_set_of_entities_alone() -> None:
    entities: Site = {Task.ENTITIES: (100, 0.1)}
    relations: Site = {Task.RELATIONS: (100, None)}  # the validation set has no example of theirs
    assert weigh([entities] * 3 + [relations] * 3) == pytest.approx([1 / 6] * 6)


@given(st.floats(0, 100))
def test_a_task_that_is_harder_loses_no_weight_to_another(loss: float) -> None:
    entities, relations = weigh([{Task.ENTITIES: (100, 0.1)}, {Task.RELATIONS: (100, loss)}])
    assert entities == relations == 0.5


def test_within_a_task_the_better_update_weighs_more_and_a_site_with_both_has_a_part_of_each() -> None:
    good: Site = {Task.ENTITIES: (100, 0.2)}
    bad: Site = {Task.ENTITIES: (100, 1.2)}
    both: Site = {Task.ENTITIES: (100, 0.2), Task.RELATIONS: (100, 0.5)}
    weights = weigh([good, bad, both])
    assert weights[0] / weights[1] == pytest.approx(math.e)
    assert weights[2] == pytest.approx(weights[0] + 1 / 4)  # three parts of entities, one of relations


@given(SITES)
def test_at_a_high_temperature_sizes_alone_decide_as_in_fed_medlora(sites: list[Site]) -> None:
    total = sum(size for site in sites for size, _ in site.values())
    expected = [sum(size for size, _ in site.values()) / total for site in sites]
    assert weigh(sites, beta=1.0, temperature=1e6) == pytest.approx(expected, rel=1e-4)


# Trap (a): the sign. Trap (d): the temperature.


def test_in_no_task_a_high_loss_is_rewarded() -> None:
    for task in Task:
        better, worse = weigh([{task: (100, 0.4)}, {task: (100, 1.4)}])
        assert better / worse == pytest.approx(math.e)


def test_the_temperature_is_what_the_terms_say_in_each_task() -> None:
    better, worse = weigh([{Task.RELATIONS: (100, 0.4)}, {Task.RELATIONS: (100, 1.4)}], temperature=0.5)
    assert better / worse == pytest.approx(math.e**2)


# Trap (e): no weight is ever 0, so admission has to bound a bad site.


def test_a_site_that_is_far_worse_still_weighs() -> None:
    assert min(weigh([{Task.ENTITIES: (100, 0.1)}, {Task.ENTITIES: (100, 20.0)}])) > 0


# Trap (f): it needs each update in the clear.


def test_it_says_that_it_reads_single_updates_which_secure_aggregation_would_hide() -> None:
    assert {Need.CLEAR_UPDATES, Need.UPDATE_SCORES} <= FedMedLoraPlus.needs

"""The learning rate over a round."""

from __future__ import annotations

import pytest

from common.terms import Schedule
from site_agent.trainer.training.schedule import learning_rate_factor


def factors(schedule: Schedule, steps: int = 20, warmup_ratio: float = 0.0) -> list[float]:
    return [learning_rate_factor(schedule, step, steps, warmup_ratio) for step in range(steps)]


@pytest.mark.parametrize("schedule", Schedule)
def test_the_warm_up_rises_evenly_to_the_full_rate(schedule: Schedule) -> None:
    assert factors(schedule, warmup_ratio=0.2)[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_a_constant_schedule_stays_at_the_full_rate() -> None:
    assert set(factors(Schedule.CONSTANT)) == {1.0}


def test_a_linear_schedule_falls_by_the_same_amount_each_step() -> None:
    assert factors(Schedule.LINEAR, steps=4) == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_a_cosine_schedule_is_at_half_the_rate_in_the_middle() -> None:
    assert factors(Schedule.COSINE, steps=4) == pytest.approx([1.0, 0.8535534, 0.5, 0.1464466])


@pytest.mark.parametrize("schedule", Schedule)
def test_no_step_has_a_rate_of_zero(schedule: Schedule) -> None:
    assert min(factors(schedule, steps=1, warmup_ratio=1.0) + factors(schedule, steps=3, warmup_ratio=0.05)) > 0

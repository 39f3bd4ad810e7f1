"""What fuzzing found, again and again: no input of the corpus breaks a promise, and together they reach the readers."""

from __future__ import annotations

import pytest

from tests.fuzz.targets import TARGETS, kept_inputs, missed

LEAST_REACHED = 0.95


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_no_kept_input_breaks_a_promise(name: str) -> None:
    inputs = kept_inputs(name)
    assert len(inputs) > len(TARGETS[name].seeds())
    for content in inputs:
        TARGETS[name].run(content)


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_the_kept_inputs_reach_nearly_every_line_of_the_readers(name: str) -> None:
    total, unreached = missed(name, kept_inputs(name))
    assert 1 - sum(map(len, unreached.values())) / total >= LEAST_REACHED, unreached

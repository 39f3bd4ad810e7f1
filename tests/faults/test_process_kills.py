"""SIGKILL of coordinator, site and evaluator at every named step (`tests/faults/steps.py`), with real processes.

Each process is started again at once, and nobody does anything else. The run must end as it does undisturbed: every
version the same, byte for byte, and nothing that was finished done twice.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.conftest import Undisturbed
from tests.faults.long_form import IS_LONG
from tests.faults.processes import Federation, is_step, make_terms
from tests.faults.steps import BEGINNING, IN_A_ROUND, Step

pytestmark = pytest.mark.slow

# One step a round, and a last round without any. The short form takes every second one: of each process, some.
STEPS = IN_A_ROUND if IS_LONG else IN_A_ROUND[::2]
ROUNDS = len(STEPS) + 1


def test_a_run_in_which_every_step_kills_somebody_ends_as_if_nobody_had_been_killed(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    wanted = undisturbed(make_terms(ROUNDS))
    waiting: list[tuple[Step, int]] = [(step, 0) for step in BEGINNING]
    waiting += [(step, number) for number, step in enumerate(STEPS, start=1)]
    with Federation(tmp_path, make_terms(ROUNDS)) as federation:
        federation.create_run()
        for process, line in federation.follow():
            for step, round_number in list(waiting):
                if is_step(step, process, line) and line.get("round_number", 0) == round_number:
                    federation.kill(process)
                    waiting.remove((step, round_number))
        assert waiting == [], "every step was reached"
        assert federation.done_twice() == []
        assert federation.published() == wanted
        assert len(federation.published()) == ROUNDS

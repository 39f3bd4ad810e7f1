"""Links that are cut in the middle of transfers, or slow and far away: the run ends as over a good one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.conftest import Undisturbed
from tests.faults.processes import Federation, make_terms
from tests.faults.proxy import Link

pytestmark = pytest.mark.slow

ROUNDS, LORA_RANK = 2, 4  # an adapter of 2.47 MB: three chunks


def test_connections_that_are_cut_again_and_again_cost_no_round(undisturbed: Undisturbed, tmp_path: Path) -> None:
    wanted = undisturbed(make_terms(ROUNDS, LORA_RANK))
    link = Link(cut_after_bytes=(1_200_000, 2_400_000))  # none of them moves a whole adapter both ways
    with Federation(tmp_path, make_terms(ROUNDS, LORA_RANK), link) as federation:
        assert federation.run() == wanted
        assert federation.proxy is not None
        assert federation.proxy.cuts >= 2 * ROUNDS
        assert federation.done_twice() == []


def test_a_slow_link_is_waited_for(undisturbed: Undisturbed, tmp_path: Path) -> None:
    wanted = undisturbed(make_terms(ROUNDS, LORA_RANK))
    link = Link(bytes_per_second=5_000_000, delay_seconds=0.005)
    with Federation(tmp_path, make_terms(ROUNDS, LORA_RANK), link) as federation:
        assert federation.run() == wanted

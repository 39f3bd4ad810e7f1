"""The example of docs/strategies.md, run as it stands; and that the page names every strategy."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.terms import STRATEGIES_WITH_PARAMETERS, Terms
from coordinator.domain.aggregation import STRATEGIES
from coordinator.domain.aggregation.strategy import Strategy
from tests.fakes.coordinator_strategies import combined, contributions_of, near, random_pair
from tests.fakes.coordinator_values import make_terms

PAGE = (Path(__file__).parents[2] / "docs" / "strategies.md").read_text()


def test_the_example_is_a_strategy_that_combines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "midrange.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    make: Callable[[Terms], Strategy] = importlib.import_module("midrange").Midrange
    current = random_pair(0)
    updates = [near(current, seed) for seed in (1, 2, 3)]
    pair, weights = combined(make(make_terms()), updates, current, contributions_of((1, 2, 3)))
    assert sum(weights) == pytest.approx(1)
    values = np.stack([update.a for update in updates]).astype(np.float64)
    np.testing.assert_allclose(pair.a, (values.min(axis=0) + values.max(axis=0)) / 2)


def test_the_table_has_every_strategy_and_every_parameter() -> None:
    rows = {row.split("`")[1]: row for row in PAGE.splitlines() if row.startswith("| `")}
    assert rows.keys() == STRATEGIES.keys()
    for name, row in rows.items():
        shown = {cell for cell in re.findall(r"`(\w+)`", row)} - {name}
        assert bool(shown) == (name in STRATEGIES_WITH_PARAMETERS)

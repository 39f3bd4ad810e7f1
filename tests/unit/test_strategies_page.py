"""The example of docs/strategies.md, run as it stands; and that the page names every strategy."""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common.terms import AggregationTerms, GateMetric, GateTerms, Terms
from coordinator.domain.aggregation import STRATEGIES
from coordinator.domain.aggregation.strategy import Strategy
from tests.fakes.coordinator_strategies import aggregation_of
from tests.fakes.coordinator_updates import read_float64
from tests.fakes.coordinator_values import SITES, make_terms
from tests.fakes.coordinator_world import coordinator

PAGE = (Path(__file__).parents[2] / "docs" / "strategies.md").read_text()


async def test_the_example_carries_a_run_to_its_published_adapter_by_one_line_in_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "midrange.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    make: Callable[[Terms], Strategy] = importlib.import_module("midrange").Midrange
    monkeypatch.setitem(STRATEGIES, "midrange", make)
    gate = GateTerms(metric=GateMetric.NONE)
    async with coordinator(tmp_path) as world:
        await world.training(make_terms(aggregation=AggregationTerms(strategy="midrange"), gate=gate))
        updates = [world.honest_bytes(seed) for seed in range(len(SITES))]

        published = await world.commit_round(updates)

        sent = [read_float64(content) for content in updates]
        for name, tensor in published.items():
            values = np.stack([each[name] for each in sent])
            np.testing.assert_allclose(tensor, (values.min(axis=0) + values.max(axis=0)) / 2, rtol=2**-8, atol=1e-9)


def test_the_table_has_every_strategy_and_every_parameter() -> None:
    rows = {row.split("`")[1]: row for row in PAGE.splitlines() if row.startswith("| `")}
    rows = {name: row for name, row in rows.items() if name in STRATEGIES}
    assert rows.keys() == STRATEGIES.keys()
    for name, row in rows.items():
        *_, parameters, _source, _end = row.split("|")
        assert set(re.findall(r"`(\w+)`", parameters)) == parameters_of(name)


def parameters_of(strategy: str) -> set[str]:
    parameters = getattr(aggregation_of(strategy), strategy, None)
    return {field.name for field in dataclasses.fields(parameters)} if parameters is not None else set()

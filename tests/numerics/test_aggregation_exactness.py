"""Which strategies average products exactly, as the documents have it, in the dtype that is published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.domain.aggregation import STRATEGIES
from coordinator.domain.aggregation.strategy import Factors
from tests.fakes.coordinator_strategies import (
    ADDING,
    COUNTS,
    combined,
    contributions_of,
    mean_product,
    planned,
    product,
    scene,
    strategy_named,
)


def documented() -> dict[str, str]:
    """What the table in ``docs/strategies.md`` says of the mean of products, strategy by strategy."""
    text = (Path(__file__).parents[2] / "docs" / "strategies.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if line.startswith("| `")]
    return {row[1].strip("`"): row[3] for row in rows if row[1].strip("`") in STRATEGIES}


@pytest.mark.parametrize("name", sorted(STRATEGIES.keys() - {"fedsa_lora"}))  # whose products are each site's own
@pytest.mark.parametrize("round_number", [1, 2])
@given(seed=st.integers(0, 2**32 - 1))
def test_the_mean_of_products_is_exact_in_float32_where_the_documents_say_so(
    name: str, round_number: int, seed: int
) -> None:
    """In every other strategy it is not, for updates that differ: what is said of the exact ones says something."""
    current, updates = scene(seed)
    updates = planned(name, updates, current, round_number)
    pair, _ = combined(strategy_named(name), updates, current, contributions_of(COUNTS))
    published = Factors(a=pair.a.astype(np.float32), b=pair.b.astype(np.float32))
    expected = mean_product(updates) + (product(current) if name in ADDING else 0.0)

    error = np.linalg.norm(product(published) - expected) / np.linalg.norm(expected)

    assert (error < 1e-5) == documented()[name].startswith("exactly")

"""The example of docs/strategies.md, entered into a copy of the project as it stands; and that the page names all."""

from __future__ import annotations

import dataclasses
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from coordinator.domain.aggregation import STRATEGIES
from tests.fakes.coordinator_strategies import aggregation_of

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "strategies.md").read_text()
BLOCKS = re.findall(r"```(?:python|proto)\n(.*?)```", PAGE, flags=re.DOTALL)

# What the copy is asked: a run by that strategy, and what the strategy's terms say at a site.
QUESTIONS = """
import numpy as np
import pytest

from common.errors import InputInvalidError
from common.strategy_terms import RangePointTerms
from common.terms import AggregationTerms, GateMetric, GateTerms, check_terms
from common.wire import terms_from_proto, terms_to_proto
from site_agent.domain.term_rules import judge_terms
from tests.fakes.coordinator_updates import read_float64
from tests.fakes.coordinator_values import SITES, make_terms
from tests.fakes.coordinator_world import coordinator
from tests.fakes.site_policies import policy_for


def terms_at(share):
    aggregation = AggregationTerms(strategy="range_point", range_point=RangePointTerms(share=share))
    return make_terms(aggregation=aggregation, gate=GateTerms(metric=GateMetric.NONE))


async def test_a_run_reaches_its_published_adapter(tmp_path):
    async with coordinator(tmp_path) as world:
        await world.training(terms_at(0.25))
        updates = [world.honest_bytes(seed) for seed in range(len(SITES))]

        published = await world.commit_round(updates)

        sent = [read_float64(content) for content in updates]
        for name, tensor in published.items():
            values = np.stack([each[name] for each in sent])
            expected = values.min(axis=0) + 0.25 * (values.max(axis=0) - values.min(axis=0))
            np.testing.assert_allclose(tensor, expected, rtol=2**-8, atol=1e-9)


def test_its_parameter_travels_is_bounded_and_is_told_to_a_hospital(tmp_path):
    assert terms_from_proto(terms_to_proto(terms_at(0.25))) == terms_at(0.25)
    with pytest.raises(InputInvalidError, match="aggregation.range_point.share: expected 0 to 1, got 1.5"):
        check_terms(terms_at(1.5))
    policy = policy_for(tmp_path, terms_at(0.25))
    share = "aggregation.range_point.share"
    (lawful,) = (each for each in judge_terms(terms_at(0.25), policy, is_trained=True) if each.path == share)
    (unlawful,) = (each for each in judge_terms(terms_at(0.5), policy, is_trained=True) if each.path == share)
    assert "a share of 0.25 of their range" in lawful.words
    assert (lawful.is_allowed, unlawful.is_allowed) == (True, False)
"""


def insert(text: str, path: Path, before: str) -> None:
    """Put ``text`` where ``before`` stands, which it does once."""
    head, tail = path.read_text().split(before)
    path.write_text(head + text + before + tail)


@pytest.mark.slow
def test_the_example_entered_as_the_page_says_carries_a_run_to_its_published_adapter(tmp_path: Path) -> None:
    for name in ("common", "coordinator", "proto", "site_agent", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    strategy, line, message, choice, parameters, field = BLOCKS
    package, terms = tmp_path / "coordinator" / "domain" / "aggregation", tmp_path / "common"
    (package / "range_point.py").write_text(strategy)
    insert(
        "from coordinator.domain.aggregation.range_point import RangePoint\n", package / "__init__.py", "\nSTRATEGIES: "
    )
    insert(line, package / "__init__.py", "    TrimmedMean.name: ")
    types = tmp_path / "proto" / "fedmedlora" / "v1" / "types.proto"
    insert(message + "\n", types, "// How updates are combined.\n")
    insert(choice, types, "    // Of `trimmed_mean`.\n")
    insert(parameters + "\n\n", terms / "strategy_terms.py", "def parameter_problems(")
    insert(field, terms / "terms.py", "    trimmed_mean: of.")
    made = [sys.executable, "-m", "grpc_tools.protoc", "-Iproto", "--python_out=proto", "fedmedlora/v1/types.proto"]
    subprocess.run(made, cwd=tmp_path, check=True)
    (tmp_path / "tests" / "test_example.py").write_text(QUESTIONS)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    asked = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "tests/test_example.py"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{tmp_path}:{tmp_path / 'proto'}", "PATH": ""},
        capture_output=True,
        text=True,
    )

    assert asked.returncode == 0, asked.stdout + asked.stderr
    assert "2 passed" in asked.stdout


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

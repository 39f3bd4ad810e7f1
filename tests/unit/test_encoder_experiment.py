"""Arms of encoders in an experiment's file: what a file may ask for, and what of it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lab.experiment import load_experiment
from tests.fakes.lab_bench import experiment

SHIPPED = Path(__file__).parents[2] / "benchmarks" / "experiments"
BERT = {"name": "bert", "kind": "federated", "model": "encoder"}
LORA = {"name": "lora", "kind": "federated"}


def test_the_shipped_experiment_has_the_sites_and_test_sets_of_that_of_adapters() -> None:
    encoders, adapters = (load_experiment(SHIPPED / f"ner-{name}.toml") for name in ("encoder", "four-sites"))

    assert (encoders.sites, encoders.test, encoders.seeds) == (adapters.sites, adapters.test, adapters.seeds)
    assert encoders.validation_sentences == adapters.validation_sentences
    ours, theirs = (one.terms["training"]["examples_per_round"] for one in (encoders, adapters))
    assert ours == theirs
    assert {arm.model for arm in encoders.arms} == {"encoder"}


@pytest.mark.parametrize(
    ("tables", "problem"),
    [
        ({"arms": [{"name": "zero", "kind": "zero_shot", "model": "encoder"}]}, "expected an encoder to be trained"),
        (
            {"arms": [BERT, LORA, {"name": "best", "kind": "best_of", "of": ["bert", "lora"]}]},
            "arm best: of: expected arms of its model, base_model, got 'bert'",
        ),
        (
            {"arms": [BERT], "new_site": {"corpus": "abroad", "examples": [2], "continues": ["bert"]}},
            "new_site.continues: expected arms with adapters, got 'bert'",
        ),
        ({"arms": [{**BERT, "model": "roberta"}]}, "Input should be 'base_model' or 'encoder'"),
    ],
)
def test_what_encoders_have_no_part_in_is_refused(tables: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        experiment(**tables)

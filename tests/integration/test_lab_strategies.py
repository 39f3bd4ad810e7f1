"""Arms whose sites keep factors, train parts or train at ranks of their own, played to their end on a tiny model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.terms import LoraTerms
from common.weights_io import WeightsReader
from lab.arms import Bench
from lab.comparisons import OWN_NOTES, differences
from lab.estimate import EstimatingWorkshop, measured_rates
from lab.findings import Findings, Setting
from lab.playing import failures, play_all
from lab.reports import check
from site_agent.orders import (
    ADAPTER_FILE,
    ORDER,
    ORDER_FILE,
    OWN_FILE,
    PERSONAL_FILE,
    RESULT_FILE,
    SIDE_FILE,
    UPDATE_FILE,
    EvaluateOrder,
    TrainOrder,
)
from tests.fakes.lab_bench import SITES, TERMS, Lab, TrainerHere, experiment

RANKS = {"lora": {"lora_rank": 3, "least_lora_rank": 1}}


def arm(name: str, **terms: object) -> dict[str, Any]:
    return {"name": name, "kind": "federated", "terms": terms}


ARMS = [
    {"name": "alone", "kind": "single_site"},
    arm("personal", aggregation={"strategy": "fedsa_lora"}) | {"score_rounds": True},
    arm("stacked", aggregation={"strategy": "flora", "flora": {"published_rank": 6}}, **RANKS),
    arm("residual", aggregation={"strategy": "fedex_lora", "fedex_lora": {"published_rank": 6}}, **RANKS),
    arm("padded", aggregation={"strategy": "hetlora"}, **RANKS),
    arm("products", aggregation={"strategy": "flexlora"}, **RANKS),
]
CHOSEN = experiment(
    arms=ARMS,
    sites=[SITES[0], {**SITES[1], "max_lora_rank": 2}],
    new_site={"corpus": "abroad", "examples": [2], "continues": ["stacked", "personal"]},
)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def expected(lab: Lab) -> EstimatingWorkshop:
    """What an estimate says before anything was done."""
    return estimated(lab)


@pytest.fixture(scope="module")
def trainer() -> TrainerHere:
    return TrainerHere()


@pytest.fixture(scope="module")
def found(lab: Lab, expected: EstimatingWorkshop, trainer: TrainerHere) -> Findings:
    return played(lab, trainer)


def estimated(lab: Lab) -> EstimatingWorkshop:
    working = lab.workshop(TrainerHere())
    workshop = EstimatingWorkshop(store=lab.store, working=working, rates=measured_rates(lab.store))
    bench: Bench = replace(lab.bench(CHOSEN, working), workshop=workshop)
    assert failures(asyncio.run(play_all(bench))) == []
    return workshop


def played(lab: Lab, trainer: TrainerHere) -> Findings:
    return asyncio.run(play_all(lab.bench(CHOSEN, lab.workshop(trainer))))


def orders(lab: Lab) -> Iterator[tuple[Path, TrainOrder]]:
    """Every folder in which something was trained."""
    for folder in sorted(lab.store.folder.glob("cells/*")):
        order = ORDER.validate_json((folder / ORDER_FILE).read_bytes())
        if isinstance(order, TrainOrder):
            yield folder, order


def ranks_of(lab: Lab) -> dict[LoraTerms, set[int]]:
    """Ranks of the updates that were trained with the same LoRA terms."""
    ranks: dict[LoraTerms, set[int]] = {}
    for folder, order in orders(lab):
        with WeightsReader(folder / UPDATE_FILE) as update:
            (rank,) = {slot.shape[0] for slot in update.layout.tensors if "lora_A" in slot.name}
        ranks.setdefault(order.lora, set()).add(rank)
    return ranks


def test_every_arm_plays_to_its_end(lab: Lab, found: Findings) -> None:
    assert found.missing == []
    assert {row.arm for row in found.scored} == {
        *(str(one["name"]) for one in ARMS), "personal, personal", "nothing"
    }  # fmt: skip
    assert list(check(lab.bench(CHOSEN, lab.workshop(TrainerHere()))))


def test_a_site_trains_at_the_rank_that_it_allows_and_sends_no_other(lab: Lab, found: Findings) -> None:
    ranks = {(row.arm, row.site): row.lora_rank for row in found.trained}

    assert {ranks[name, "north"] for name in ("stacked", "residual", "padded", "products")} == {3}
    assert {ranks[name, "south"] for name in ("stacked", "residual", "padded", "products", "personal", "alone")} == {2}
    assert all(trained == {lora.lora_rank} for lora, trained in ranks_of(lab).items())


def test_what_is_trained_beside_the_rest_gets_the_rest_and_its_bytes_count(lab: Lab, found: Findings) -> None:
    bytes_down = {(row.arm, row.site, row.round_number): row.download_bytes for row in found.trained}

    beside = {order.side_lora_rank for _, order in orders(lab) if order.side_lora_rank}
    assert beside == {6, 3, 4, 1}  # flora: all that was published; fedex_lora: what is left of 6, and of 3 in its begin
    assert bytes_down["stacked", "south", 2] > 2 * bytes_down["stacked", "south", 1]
    assert bytes_down["padded", "south", 1] < bytes_down["padded", "north", 1]
    assert all((folder / SIDE_FILE).exists() for folder, order in orders(lab) if order.side_lora_rank)


def test_a_site_starts_from_the_factors_that_it_kept_the_round_before(lab: Lab, found: Findings) -> None:
    kept = {(folder / PERSONAL_FILE).read_bytes() for folder, order in orders(lab) if order.own is not None}
    second = [folder for folder, order in orders(lab) if order.own is not None and order.round_number == 2]
    first = [folder for folder, order in orders(lab) if order.own is not None and order.round_number == 1]

    assert len(first) == len(second) == 2
    assert all((folder / OWN_FILE).read_bytes() in kept for folder in second)
    assert not any((folder / OWN_FILE).exists() for folder in first)


def test_each_sites_own_model_is_scored_in_domain_after_every_round_and_the_shared_one_after_the_last(
    found: Findings,
) -> None:
    own = [row for row in found.scored if row.arm == "personal, personal"]
    shared = [row for row in found.scored if row.arm == "personal"]

    assert {(row.site, row.round_number) for row in own} == {(s, n) for s in ("north", "south") for n in (0, 1, 2)}
    assert {row.setting for row in own} == {Setting.IN_DOMAIN}
    assert {row.round_number for row in shared if row.setting is not Setting.NEW_SITE} == {0, 2}
    compared = {(one.left, one.right, one.column) for one in differences(CHOSEN, found)}
    assert {("personal, personal", "alone", OWN_NOTES), ("personal, personal", "personal", OWN_NOTES)} <= compared


def test_a_sites_own_model_is_what_is_shared_with_its_own_factors_in_it(lab: Lab, found: Findings) -> None:
    kept = [values(folder / PERSONAL_FILE) for folder, order in orders(lab) if order.own is not None]
    scored = [values(path) for path in scored_adapters(lab)]

    fitting = [one for one in scored for own in kept if all(is_rounded(one[name], own[name]) for name in own)]
    assert len(fitting) == 4  # of two sites after two rounds


def is_rounded(number: np.ndarray[Any, Any], exact: np.ndarray[Any, Any]) -> bool:
    """Whether it is the same in bfloat16, whose significand has 8 bits."""
    return number.shape == exact.shape and np.allclose(number, exact, rtol=2**-8, atol=0)


def values(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    with WeightsReader(path) as weights:
        return {slot.name: weights.tensor(slot.name) for slot in weights.layout.tensors}


def scored_adapters(lab: Lab) -> Iterator[Path]:
    for folder in lab.store.folder.glob("cells/*"):
        order = ORDER.validate_json((folder / ORDER_FILE).read_bytes())
        if isinstance(order, EvaluateOrder) and order.generate and (folder / ADAPTER_FILE).exists():
            yield folder / ADAPTER_FILE


def test_a_new_site_goes_on_at_the_rank_that_was_published(lab: Lab, found: Findings) -> None:
    alone = [order for _, order in orders(lab) if order.training.examples_per_round == 2]

    assert {order.lora.lora_rank for order in alone} == {TERMS["lora"]["lora_rank"], 3, 6}


def test_the_estimate_counted_exactly_what_was_done_and_nothing_is_left(
    lab: Lab, expected: EstimatingWorkshop, trainer: TrainerHere, found: Findings
) -> None:
    made = [folder for folder in trainer.performed if (folder / RESULT_FILE).exists()]
    again = TrainerHere()

    assert len(expected.pending) == len(made)
    assert estimated(lab).pending == {}
    assert played(lab, again) == found
    assert again.performed == []

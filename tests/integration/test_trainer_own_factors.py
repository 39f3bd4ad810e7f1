"""What a trainer starts from beside the adapter: the site's own factors, and an adapter that it only adds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.adapter import A_SUFFIX, B_SUFFIX, FactorSet, WireDtype
from common.terms import LoraTerms, TaskTerms, TrainingTerms
from common.weights_io import WeightsReader, write_weights
from site_agent.orders import (
    ADAPTER_FILE,
    FAILURE,
    FAILURE_FILE,
    ORDER,
    ORDER_FILE,
    OWN_FILE,
    PERSONAL_FILE,
    SIDE_FILE,
    UPDATE_FILE,
    BaseModelSource,
    InitialiseOrder,
    TrainOrder,
)
from site_agent.trainer.base_model_files import describe_base_model
from site_agent.trainer.runner import run_order
from tests.tiny_model import TINY_TARGET_MODULES, make_tiny_model, write_passages

LORA = LoraTerms(lora_rank=4, lora_alpha=8, target_modules=TINY_TARGET_MODULES)


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory) -> TrainOrder:
    home = tmp_path_factory.mktemp("site")
    model = make_tiny_model(home / "tiny")
    return TrainOrder(
        base_model=BaseModelSource(
            location=str(model), expected=describe_base_model(model, "tiny"), device="cpu", threads=1
        ),
        lora=LORA,
        task=TaskTerms(entity_types=("drug", "problem"), max_new_tokens=8),
        training=TrainingTerms(learning_rate=1e-2, examples_per_round=8),
        data_files=(str(write_passages(home / "notes.jsonl", 6)),),
        trained=FactorSet.A_AND_B,
        uploaded=FactorSet.A_AND_B,
        round_number=1,
        seed=1,
        wire_dtype="f32",
    )


@pytest.fixture(scope="module")
def adapter(order: TrainOrder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    initialise = InitialiseOrder(base_model=order.base_model, lora=LORA, seed=1, wire_dtype="f32")
    (folder / ORDER_FILE).write_bytes(ORDER.dump_json(initialise))
    assert run_order(folder) == 0
    return folder / UPDATE_FILE


def tensors(path: Path) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    with WeightsReader(path) as reader:
        return {slot.name: reader.tensor(slot.name) for slot in reader.layout.tensors}


def prepared(folder: Path, order: TrainOrder, adapter: Path) -> Path:
    folder.mkdir()
    (folder / ORDER_FILE).write_bytes(ORDER.dump_json(order))
    (folder / ADAPTER_FILE).write_bytes(adapter.read_bytes())
    return folder


def test_own_factors_are_what_training_starts_from_and_what_it_leaves_stays(
    order: TrainOrder, adapter: Path, tmp_path: Path
) -> None:
    own = {name: np.full_like(one, 0.01) for name, one in tensors(adapter).items() if name.endswith(B_SUFFIX)}
    with_own = replace(order, uploaded=FactorSet.A_ONLY, own=FactorSet.B_ONLY)
    folder = prepared(tmp_path / "own", with_own, adapter)
    write_weights(folder / OWN_FILE, own, WireDtype.F32)
    assert run_order(folder) == 0
    as_one = prepared(tmp_path / "one", order, adapter)
    write_weights(as_one / ADAPTER_FILE, tensors(adapter) | own, WireDtype.F32)
    assert run_order(as_one) == 0
    sent, kept, expected = (
        tensors(path) for path in (folder / UPDATE_FILE, folder / PERSONAL_FILE, as_one / UPDATE_FILE)
    )
    assert all(name.endswith(A_SUFFIX) for name in sent) and all(name.endswith(B_SUFFIX) for name in kept)
    for name, values in (sent | kept).items():
        np.testing.assert_array_equal(values, expected[name])
    assert not np.array_equal(next(iter(kept.values())), next(iter(own.values())))


def test_without_own_factors_training_starts_from_the_adapters(
    order: TrainOrder, adapter: Path, tmp_path: Path
) -> None:
    folder = prepared(tmp_path / "none", replace(order, uploaded=FactorSet.A_ONLY, own=FactorSet.B_ONLY), adapter)
    plain = prepared(tmp_path / "plain", order, adapter)
    assert run_order(folder) == run_order(plain) == 0
    expected = tensors(plain / UPDATE_FILE)
    for name, values in tensors(folder / PERSONAL_FILE).items():
        np.testing.assert_array_equal(values, expected[name])
    assert not (plain / PERSONAL_FILE).exists()


def test_own_factors_of_another_rank_are_a_failure_that_says_so(
    order: TrainOrder, adapter: Path, tmp_path: Path
) -> None:
    folder = prepared(tmp_path / "own", replace(order, own=FactorSet.B_ONLY), adapter)
    own = {name: one[:, :2] for name, one in tensors(adapter).items() if name.endswith(B_SUFFIX)}
    write_weights(folder / OWN_FILE, own, WireDtype.F32)
    run_order(folder)
    failure = FAILURE.validate_json((folder / FAILURE_FILE).read_bytes())
    assert failure.reason == "SETTINGS_UNSUPPORTED" and "expected [" in failure.detail


def test_what_is_added_beside_counts_in_training_and_is_no_part_of_the_update(
    order: TrainOrder, adapter: Path, tmp_path: Path
) -> None:
    generator = np.random.default_rng(0)
    side = {
        name: generator.standard_normal((6, one.shape[1]) if name.endswith(A_SUFFIX) else (one.shape[0], 6)) * 0.1
        for name, one in tensors(adapter).items()
    }
    folder = prepared(tmp_path / "beside", replace(order, side_lora_rank=6), adapter)
    write_weights(folder / SIDE_FILE, side, WireDtype.F32)
    plain = prepared(tmp_path / "plain", order, adapter)
    assert run_order(folder) == run_order(plain) == 0
    sent, without = tensors(folder / UPDATE_FILE), tensors(plain / UPDATE_FILE)
    assert {name: one.shape for name, one in sent.items()} == {name: one.shape for name, one in without.items()}
    assert not np.allclose(next(iter(sent.values())), next(iter(without.values())))

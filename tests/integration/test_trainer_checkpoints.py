"""A trainer process that is killed in the middle of training, and the next one on the same order folder."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from common.adapter import FactorSet
from common.terms import LoraTerms, TaskTerms, TrainingTerms
from site_agent.orders import (
    ADAPTER_FILE,
    CHECKPOINT_FILE,
    FAILURE_FILE,
    ORDER,
    ORDER_FILE,
    PROGRESS,
    PROGRESS_FILE,
    RESULT,
    RESULT_FILE,
    STOP_FILE,
    UPDATE_FILE,
    BaseModelSource,
    InitialiseOrder,
    TrainOrder,
    TrainResult,
)
from site_agent.trainer.base_model_files import describe_base_model
from site_agent.trainer.runner import STOPPED, run_order
from tests.running import wait_until
from tests.tiny_model import TINY_TARGET_MODULES, make_tiny_model, write_passages

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LORA = LoraTerms(lora_rank=4, lora_alpha=8, lora_dropout=0.1, target_modules=TINY_TARGET_MODULES)
# Long enough to be caught in the middle: some hundred steps.
TRAINING = TrainingTerms(learning_rate=1e-3, local_epochs=6, batch_size=1)
HANG_SECONDS = 300.0


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory) -> TrainOrder:
    home = tmp_path_factory.mktemp("site")
    model = make_tiny_model(home / "tiny")
    base = BaseModelSource(location=str(model), expected=describe_base_model(model, "tiny"), device="cpu", threads=1)
    return TrainOrder(
        base_model=base,
        lora=LORA,
        task=TaskTerms(entity_types=("drug", "problem"), max_new_tokens=8),
        training=TRAINING,
        data_files=(str(write_passages(home / "notes.jsonl", 12)),),
        trained=FactorSet.A_AND_B,
        uploaded=FactorSet.A_AND_B,
        round_number=1,
        seed=1,
        wire_dtype="bf16",
        checkpoint_seconds=0.0,
    )


@pytest.fixture(scope="module")
def first(order: TrainOrder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A first adapter."""
    folder = tmp_path_factory.mktemp("first")
    initialise = InitialiseOrder(base_model=order.base_model, lora=LORA, seed=1, wire_dtype="bf16")
    (folder / ORDER_FILE).write_bytes(ORDER.dump_json(initialise))
    assert run_order(folder) == 0
    return folder / UPDATE_FILE


def order_folder(folder: Path, order: TrainOrder, first: Path) -> Path:
    folder.mkdir()
    (folder / ORDER_FILE).write_bytes(ORDER.dump_json(order))
    (folder / ADAPTER_FILE).write_bytes(first.read_bytes())
    return folder


def without_checkpoints(order: TrainOrder) -> TrainOrder:
    """One whose training leaves none: neither writing them nor going on from them may change a byte."""
    return replace(order, checkpoint_seconds=3600.0)


def start(folder: Path) -> subprocess.Popen[bytes]:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "-m", "site_agent.trainer", str(folder)], env=environment)


def kept_at(folder: Path) -> int:
    """When the last checkpoint was left, in nanoseconds; 0 before the first."""
    file = folder / CHECKPOINT_FILE
    return file.stat().st_mtime_ns if file.exists() else 0


def kill_in_training(folder: Path) -> None:
    """Start a trainer on the folder, and kill it some time after it has left a checkpoint."""
    before = kept_at(folder)
    trainer = start(folder)
    wait_until(lambda: kept_at(folder) != before or trainer.poll() is not None, HANG_SECONDS)
    trainer.kill()
    assert trainer.wait() < 0, "it ended before it could be killed"
    assert not (folder / RESULT_FILE).exists()


def stop_in_training(folder: Path) -> None:
    """Start a trainer on the folder, and ask it to stop some time after it has left a checkpoint."""
    before = kept_at(folder)
    trainer = start(folder)
    wait_until(lambda: kept_at(folder) != before or trainer.poll() is not None, HANG_SECONDS)
    (folder / STOP_FILE).touch()
    assert trainer.wait(HANG_SECONDS) == STOPPED
    assert not (folder / RESULT_FILE).exists() and not (folder / FAILURE_FILE).exists()
    (folder / STOP_FILE).unlink()


def test_an_update_does_not_depend_on_kills_and_stops(order: TrainOrder, first: Path, tmp_path: Path) -> None:
    undisturbed = order_folder(tmp_path / "undisturbed", without_checkpoints(order), first)
    assert run_order(undisturbed) == 0
    disturbed = order_folder(tmp_path / "disturbed", order, first)
    kill_in_training(disturbed)
    stop_in_training(disturbed)
    assert start(disturbed).wait(HANG_SECONDS) == 0
    assert (disturbed / UPDATE_FILE).read_bytes() == (undisturbed / UPDATE_FILE).read_bytes()
    results = [RESULT.validate_json((folder / RESULT_FILE).read_bytes()) for folder in (undisturbed, disturbed)]
    kept = [(one.steps, one.mean_loss) for one in results if isinstance(one, TrainResult)]
    assert kept[0] == kept[1]
    assert kept[0][0] == PROGRESS.validate_json((undisturbed / PROGRESS_FILE).read_bytes()).steps


def test_a_checkpoint_of_other_notes_means_nothing(order: TrainOrder, first: Path, tmp_path: Path) -> None:
    folder = order_folder(tmp_path / "order", order, first)
    kill_in_training(folder)
    notes = Path(order.data_files[0])
    was = notes.read_bytes()
    try:
        write_passages(notes, 4)
        assert start(folder).wait(HANG_SECONDS) == 0
        fresh = order_folder(tmp_path / "fresh", without_checkpoints(order), first)
        assert run_order(fresh) == 0
    finally:
        notes.write_bytes(was)
    assert (folder / UPDATE_FILE).read_bytes() == (fresh / UPDATE_FILE).read_bytes()

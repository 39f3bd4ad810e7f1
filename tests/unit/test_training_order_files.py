"""The trainer's side of an order folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import InputInvalidError, Reason
from site_agent.orders import ORDER_FILE, PROGRESS, PROGRESS_FILE, Progress, TrainerStage
from site_agent.trainer.order_files import ProgressFile, read_order


class ManualClock:
    """A clock that a test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def written(folder: Path) -> Progress:
    return PROGRESS.validate_json((folder / PROGRESS_FILE).read_bytes())


def step(number: int, loss: float | None = None) -> Progress:
    return Progress(stage=TrainerStage.TRAINING, step=number, steps=9, loss=loss)


def test_the_first_progress_is_written_at_once(tmp_path: Path) -> None:
    ProgressFile(tmp_path, ManualClock()).report(step(1))
    assert written(tmp_path).step == 1


def test_progress_within_a_second_is_not_written(tmp_path: Path) -> None:
    clock = ManualClock()
    progress = ProgressFile(tmp_path, clock)
    progress.report(step(1))
    clock.now += 0.9
    progress.report(step(2))
    assert written(tmp_path).step == 1


def test_progress_after_a_second_is_written(tmp_path: Path) -> None:
    clock = ManualClock()
    progress = ProgressFile(tmp_path, clock)
    progress.report(step(1))
    clock.now += 1.0
    progress.report(step(2))
    assert written(tmp_path).step == 2


def test_a_new_stage_is_written_at_once(tmp_path: Path) -> None:
    progress = ProgressFile(tmp_path, ManualClock())
    progress.report(step(1))
    progress.report(Progress(stage=TrainerStage.WRITING))
    assert written(tmp_path).stage is TrainerStage.WRITING


def test_the_loss_written_is_the_mean_since_the_last_report(tmp_path: Path) -> None:
    clock = ManualClock()
    progress = ProgressFile(tmp_path, clock)
    progress.report(step(1, loss=8.0))
    progress.report(step(2, loss=3.0))
    clock.now += 1.0
    progress.report(step(3, loss=1.0))
    assert written(tmp_path).loss == 2.0


def test_a_missing_order_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputInvalidError) as caught:
        read_order(tmp_path)
    assert caught.value.reason is Reason.SETTINGS_UNSUPPORTED


def test_a_malformed_order_is_refused_by_its_fields_and_without_its_values(tmp_path: Path) -> None:
    (tmp_path / ORDER_FILE).write_text('{"kind": "initialise", "seed": "secret"}')
    with pytest.raises(InputInvalidError) as caught:
        read_order(tmp_path)
    assert "initialise.seed (int_parsing)" in caught.value.message
    assert "initialise.base_model (missing)" in caught.value.message
    assert "secret" not in caught.value.message

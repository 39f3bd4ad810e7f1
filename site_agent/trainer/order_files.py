"""The trainer's side of an order folder (see `site_agent/orders.py`). It performs no order."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from pydantic import ValidationError

from common.errors import InputInvalidError, Reason
from common.files import write_whole
from site_agent.orders import (
    FAILURE,
    FAILURE_FILE,
    ORDER,
    ORDER_FILE,
    PROGRESS,
    PROGRESS_FILE,
    RESULT,
    RESULT_FILE,
    STOP_FILE,
    EvaluateOrder,
    EvaluateResult,
    Failure,
    InitialiseOrder,
    InitialiseResult,
    Progress,
    TrainerStage,
    TrainOrder,
    TrainResult,
)

# Progress is for people and for the heartbeat; more often than this nobody looks.
PROGRESS_SECONDS = 1.0


def read_order(folder: Path) -> InitialiseOrder | TrainOrder | EvaluateOrder:
    """The order, as a typed value.

    Raises:
        InputInvalidError: SETTINGS_UNSUPPORTED, with the fields that are wrong.
    """
    try:
        return ORDER.validate_json((folder / ORDER_FILE).read_bytes())
    except OSError as error:
        problem = f"{ORDER_FILE}: expected a file, got {type(error).__name__}"
    except ValidationError as error:
        fields = ", ".join(f"{'.'.join(map(str, one['loc']))} ({one['type']})" for one in error.errors())
        problem = f"{ORDER_FILE}: expected an order, got wrong fields: {fields[:1000]}"
    raise InputInvalidError(Reason.SETTINGS_UNSUPPORTED, problem)


def write_result(folder: Path, result: InitialiseResult | TrainResult | EvaluateResult) -> None:
    """Say that the order is done; nothing is written after it."""
    write_whole(folder / RESULT_FILE, RESULT.dump_json(result))


def write_failure(folder: Path, failure: Failure) -> None:
    """Say why there will be no result."""
    write_whole(folder / FAILURE_FILE, FAILURE.dump_json(failure))


class StoppedError(Exception):
    """The agent wants the order to end here; it will be done again, and go on from its checkpoint."""


def is_asked_to_stop(folder: Path) -> bool:
    """Whether the agent wants the trainer to write down where it stands, and to end."""
    return (folder / STOP_FILE).exists()


class ProgressFile:
    """``progress.json``, replaced at most once a second, and at once when the stage changes."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = folder / PROGRESS_FILE
        self._clock = clock
        self._stage: TrainerStage | None = None
        self._written_at = 0.0
        self._losses: list[float] = []

    def report(self, progress: Progress) -> None:
        """Write ``progress``, or keep its loss: what is written next says the mean of those since the last one."""
        if progress.loss is not None:
            self._losses.append(progress.loss)
        now = self._clock()
        if progress.stage is self._stage and now - self._written_at < PROGRESS_SECONDS:
            return
        loss = fmean(self._losses) if self._losses else None
        with suppress(OSError):  # a disk that is full for a moment ends no training
            write_whole(self._path, PROGRESS.dump_json(replace(progress, loss=loss)))
        self._stage, self._written_at, self._losses = progress.stage, now, []

"""Reads and writes the agent's side of an order folder (see `site_agent/orders.py`). It starts no trainer.

The trainer is the site's own, but it works on text: what it left is parsed as typed values with a limit on its size.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from common.files import PARTIAL_SUFFIX, write_whole
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
    TrainOrder,
    TrainResult,
)

MAX_FILE_BYTES = 16 * 2**20  # an InitialiseResult names every tensor: at most 20,000 of about 300 bytes
TRAINER_LOG = "trainer.log"

_T = TypeVar("_T")


def write_order(folder: Path, order: InitialiseOrder | TrainOrder | EvaluateOrder) -> None:
    """Write ``order.json``; what an earlier trainer said, was told, or had not written whole, is removed."""
    for name in (PROGRESS_FILE, STOP_FILE):
        (folder / name).unlink(missing_ok=True)
    for partial in folder.glob(f".*{PARTIAL_SUFFIX}"):
        partial.unlink()
    write_whole(folder / ORDER_FILE, ORDER.dump_json(order))


def ask_to_stop(folder: Path) -> None:
    """Let the trainer in ``folder`` end; it need not be durable, for an agent that starts again decides anew."""
    (folder / STOP_FILE).touch(mode=0o600)


def is_asked_to_stop(folder: Path) -> bool:
    """Whether it was asked to since its order was written."""
    return (folder / STOP_FILE).exists()


def read_outcome(folder: Path) -> InitialiseResult | TrainResult | EvaluateResult | Failure | None:
    """What the trainer left: its result, else its failure, else None. A file that cannot be parsed counts as none."""
    return _read(folder / RESULT_FILE, RESULT) or _read(folder / FAILURE_FILE, FAILURE)


def read_progress(folder: Path) -> Progress | None:
    """Where the trainer stands, or None before it has said so."""
    return _read(folder / PROGRESS_FILE, PROGRESS)


def _read(path: Path, adapter: TypeAdapter[_T]) -> _T | None:
    try:
        with path.open("rb") as file:
            return adapter.validate_json(file.read(MAX_FILE_BYTES))
    except (FileNotFoundError, ValidationError):
        return None

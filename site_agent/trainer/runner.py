"""Performs one order and says how it ended. Imports torch only once the order and the base model are known to be good.

Whatever goes wrong, no text leaves: an expected failure says expected against got, an unexpected one is written to
the process's output (the agent keeps it in ``trainer.log``) by type and frames, never with its message.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from common.errors import FedMedError
from common.logging import describe_error, new_error_id
from site_agent.orders import Failure, FailureReason, Progress, TrainerStage
from site_agent.trainer.base_model_files import check_base_model, resolve_base_model
from site_agent.trainer.order_files import ProgressFile, StoppedError, read_order, write_failure, write_result

STOPPED = 3


def run_order(folder: Path, perform: Callable[[Path], None] | None = None) -> int:
    """Perform the order in ``folder``; the process's exit code: 0 with a result, 1 with a failure, 3 when stopped.

    ``perform`` does it and writes its result; without one it is done as a site's trainer does.
    """
    try:
        (perform or _perform)(folder)
    except StoppedError:
        return STOPPED
    except Exception as error:
        write_failure(folder, _failure(error))
        return 1
    return 0


def _perform(folder: Path) -> None:
    order = read_order(folder)
    progress = ProgressFile(folder)
    progress.report(Progress(stage=TrainerStage.LOADING))
    base_model = resolve_base_model(order.base_model.location)
    check_base_model(base_model, order.base_model.expected)
    from site_agent.trainer.training.perform import perform

    write_result(folder, perform(order, base_model, folder, progress))


def _failure(error: Exception) -> Failure:
    error_id = new_error_id()
    if _is_out_of_memory(error):
        detail = f"expected the order to fit into memory, got {type(error).__name__}"
        return Failure(reason=FailureReason.OUT_OF_MEMORY, detail=detail, error_id=error_id)
    if isinstance(error, FedMedError) and error.reason in FailureReason.__members__:
        return Failure(reason=FailureReason(error.reason), detail=error.message, error_id=error_id)
    sys.stderr.write(json.dumps({"error_id": error_id, **describe_error(error)}) + "\n")
    detail = f"{type(error).__name__}; its frames are in the trainer's log"
    return Failure(reason=FailureReason.TRAINER_CRASHED, detail=detail, error_id=error_id)


def _is_out_of_memory(error: Exception) -> bool:
    """Torch says it in three ways: a class on CUDA, a class of Python's, and plain words on a CPU."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (type(error) is RuntimeError and "can't allocate memory" in str(error))
    )

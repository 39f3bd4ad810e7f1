"""The real trainer, but for what it does with a good order: it raises errors whose messages are all of its notes.

In a folder with a file ``abort`` it dies as of a fault in a library instead, with the notes in its memory.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import NoReturn

from site_agent.orders import EvaluateOrder, InitialiseOrder, TrainOrder
from site_agent.trainer.__main__ import main
from site_agent.trainer.order_files import ProgressFile
from site_agent.trainer.training import perform

ABORT_FILE = "abort"


def crash(
    order: InitialiseOrder | TrainOrder | EvaluateOrder, base_model: Path, folder: Path, progress: ProgressFile
) -> NoReturn:
    """Fail as code of a library might, that quotes what it was given."""
    assert isinstance(order, TrainOrder)
    text = "".join(Path(file).read_text() for file in order.data_files)
    warnings.warn(text, stacklevel=1)
    if (folder / ABORT_FILE).exists():
        os.abort()
    try:
        raise KeyError(text)
    except KeyError as error:
        raise RuntimeError(text) from error


if __name__ == "__main__":
    perform.perform = crash
    sys.exit(main())

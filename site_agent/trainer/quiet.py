"""What every process of the trainer sets before it imports a library of models. It imports none itself."""

from __future__ import annotations

import os
import warnings

from common.logging import configure_logging


def quiet_libraries() -> None:
    """No library calls home, and nothing quotes what it reads: no warning, no progress bar, no exception's message.

    What goes wrong unexpectedly is written by type and frames, and ends the process with exit code 1.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["TRANSFORMERS_VERBOSITY"] = "critical"
    configure_logging("ERROR")
    warnings.simplefilter("ignore")

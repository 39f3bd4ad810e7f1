"""What every process of the trainer sets before it imports a library. It imports none itself."""

from __future__ import annotations

import os
import warnings


def quiet_libraries() -> None:
    """No library calls home, and none quotes in a warning or a progress bar what it reads."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["TRANSFORMERS_VERBOSITY"] = "critical"
    warnings.simplefilter("ignore")

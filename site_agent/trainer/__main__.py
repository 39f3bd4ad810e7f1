"""``python -m site_agent.trainer ORDER_FOLDER...``: the child process that holds notes and the GPU, and no network."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path


def main() -> int:
    """Perform the orders in the folders named, one after the other; the first that fails is the last."""
    folders = [Path(argument) for argument in sys.argv[1:]]
    if not folders:
        sys.stderr.write("usage: python -m site_agent.trainer ORDER_FOLDER...\n")
        return 2
    # Libraries must neither call home nor quote, in a warning, what they read.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["TRANSFORMERS_VERBOSITY"] = "critical"
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    warnings.simplefilter("ignore")
    from site_agent.trainer.runner import run_order

    return next((code for folder in folders if (code := run_order(folder)) != 0), 0)


if __name__ == "__main__":
    sys.exit(main())

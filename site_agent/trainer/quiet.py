"""What every process of the trainer sets before it imports a library of models. It imports none itself."""

from __future__ import annotations

import os
import resource
import warnings

from common.logging import configure_logging


def quiet_libraries() -> None:
    """No library calls home, and nothing quotes what it reads: no warning, no progress bar, no exception's message.

    What goes wrong unexpectedly is written by type and frames, and ends the process with exit code 1. What dies of a
    fault leaves no image of its memory.
    """
    _forbid_core_files()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["TRANSFORMERS_VERBOSITY"] = "critical"
    configure_logging("ERROR")
    warnings.simplefilter("ignore")


def _forbid_core_files() -> None:
    """The kernel writes no core file of this process, in which its notes would lie.

    One byte, over none: with a limit of 0 the kernel still hands the image to a program that collects them, with one
    of 1 it does not (Linux, fs/coredump.c).
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    limit = 1 if hard == resource.RLIM_INFINITY else min(hard, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (limit, limit))

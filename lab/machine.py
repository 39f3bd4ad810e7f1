"""This machine, in a line: processor, cores and versions; not its name."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path


def this_machine() -> str:
    """As a report says it."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    return f"machine: {_cpu_name()}, {os.cpu_count()} cores, Python {platform.python_version()}, {libraries}"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown processor"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown processor")

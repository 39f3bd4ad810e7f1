"""This machine, in a line: processor, cores, GPU and versions; not its name."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from site_agent.adapters.machine_checks import gpu_words, start_nvml


def this_machine() -> str:
    """As a report says it."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    gpu = f"{name}, " if (name := gpu_name()) else ""
    return f"machine: {_cpu_name()}, {os.cpu_count()} cores, {gpu}Python {platform.python_version()}, {libraries}"


def gpu_name(start: Callable[[], Any] = start_nvml) -> str:
    """The machine's first GPU, used or not, and its driver; empty where there is none. ``start``: NVIDIA's binding."""
    try:
        nvml = start()
    except LookupError:
        return ""
    try:
        return gpu_words(nvml, nvml.nvmlDeviceGetHandleByIndex(0))
    except nvml.NVMLError:
        return ""


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown processor"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown processor")

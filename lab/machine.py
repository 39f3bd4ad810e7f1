"""This machine, in a line: processor, cores, GPU and versions; not its name."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

from site_agent.adapters.machine_checks import start_nvml


def this_machine() -> str:
    """As a report says it."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    gpu = f"{name}, " if (name := gpu_name()) else ""
    return f"machine: {_cpu_name()}, {os.cpu_count()} cores, {gpu}Python {platform.python_version()}, {libraries}"


def gpu_name() -> str:
    """The first GPU and its driver; empty where there is none."""
    try:
        nvml = start_nvml()
    except LookupError:
        return ""
    try:
        name = nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(0))
    except nvml.NVMLError:
        return ""
    return f"{name} (driver {nvml.nvmlSystemGetDriverVersion()})"


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "unknown processor"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, "unknown processor")

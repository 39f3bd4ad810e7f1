"""A report's line about the machine names the GPU where the driver tells one, and does without where it does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lab.machine import gpu_name, this_machine


class _NvmlError(Exception):
    pass


def _binding(**also: Any) -> SimpleNamespace:
    told = {
        "NVMLError": _NvmlError,
        "nvmlDeviceGetHandleByIndex": lambda index: f"handle {index}",
        "nvmlDeviceGetName": lambda handle: f"GPU at {handle}",
        "nvmlSystemGetDriverVersion": lambda: "580.1",
    }
    return SimpleNamespace(**told | also)


def _broken(*_: object) -> str:
    raise _NvmlError


def test_the_first_gpu_is_named_with_its_driver() -> None:
    assert gpu_name(_binding) == "GPU at handle 0, driver 580.1"


@pytest.mark.parametrize("part", ["nvmlDeviceGetHandleByIndex", "nvmlDeviceGetName", "nvmlSystemGetDriverVersion"])
def test_a_driver_that_fails_names_none(part: str) -> None:
    assert gpu_name(lambda: _binding(**{part: _broken})) == ""


def test_without_a_driver_there_is_none_and_the_line_says_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise LookupError("nvidia-ml-py is not installed")

    assert gpu_name(missing) == ""
    monkeypatch.setattr("lab.machine.gpu_name", lambda: "")
    assert this_machine().startswith("machine: ") and "cores, Python" in this_machine()
    monkeypatch.setattr("lab.machine.gpu_name", lambda: "a GPU, driver 1")
    assert "cores, a GPU, driver 1, Python" in this_machine()

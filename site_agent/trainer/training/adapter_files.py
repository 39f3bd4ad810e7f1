"""Adapters between files and tensors: `common.weights_io` reads and writes, here the numbers become torch's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from common.adapter import WireDtype
from common.weights_io import WeightsReader, write_weights


def read_adapter(path: Path) -> dict[str, Tensor]:
    """All tensors of the file, in fp32 on the CPU.

    Raises:
        UpdateRefusedError: the file is not a safetensors file of bf16 or fp32 tensors.
    """
    with WeightsReader(path) as reader:
        return {slot.name: torch.from_numpy(reader.tensor(slot.name)) for slot in reader.layout.tensors}


def write_adapter(path: Path, tensors: Mapping[str, Tensor], dtype: WireDtype) -> None:
    """Write the tensors sorted by name, rounded to ``dtype``; the file is there whole or not at all.

    Raises:
        UpdateRefusedError: UPDATE_NOT_FINITE.
    """
    weights = {name: tensor.detach().float().cpu().numpy() for name, tensor in tensors.items()}
    write_weights(path, weights, dtype)

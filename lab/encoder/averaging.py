"""The federated mean of encoders: every parameter, weighted by examples (FedAvg, arXiv 1602.05629). No torch.

Killed at any instant it loses nothing: the mean of equal files with equal weights lies under one name, and appears
whole.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save

from common.errors import FedMedError, Reason
from common.files import make_folder, replacing
from common.ids import digest_of
from common.weights_io import file_digest
from coordinator.domain.values import AdapterFile
from lab.cells import Adapter


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A site's parameters, and how many examples it trained them on."""

    parameters: Adapter
    examples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """Where means lie."""

    folder: Path

    def mean(self, shares: Sequence[Share]) -> Adapter:
        """The mean of the sites' parameters; made, unless it is there. One site's is its own.

        Raises:
            FedMedError: INTERNAL, when they are not parameters of one encoder.
        """
        if len(shares) == 1:
            return shares[0].parameters
        named = sorted((one.parameters.file.digest, one.examples) for one in shares)
        key = hashlib.sha256(repr(named).encode()).hexdigest()[:32]
        path = self.folder / key / "parameters.safetensors"
        if any(one.parameters.is_nominal for one in shares):
            nominal = AdapterFile(digest=digest_of(key.encode()), size_bytes=shares[0].parameters.file.size_bytes)
            return Adapter(file=nominal, path=path, is_nominal=True)
        if not path.exists():
            make_folder(path.parent)
            # In one order, whichever site comes first: sums of floats depend on it.
            ordered = sorted(shares, key=lambda one: (one.parameters.file.digest, one.examples))
            made = weighted_mean([(one.parameters.path, one.examples) for one in ordered])
            with replacing(path) as file:
                file.write(save(made))
        return Adapter(file=AdapterFile(digest=file_digest(path), size_bytes=path.stat().st_size), path=path)


def weighted_mean(files: Sequence[tuple[Path, int]]) -> dict[str, NDArray[np.float32]]:
    """``sum_k n_k x_k / sum_k n_k`` of every tensor, added up in float64, one tensor of one file at a time.

    Raises:
        FedMedError: INTERNAL, when tensors differ in name, shape or dtype.
    """
    total = sum(examples for _, examples in files)
    sums: dict[str, NDArray[np.float64]] = {}
    for path, examples in files:
        with safe_open(path, framework="numpy") as opened:
            names = set(opened.keys())
            if sums and names != sums.keys():
                raise FedMedError(Reason.INTERNAL, f"encoders: expected {len(sums)} tensors of equal names, got others")
            for name in sorted(names):
                tensor = opened.get_tensor(name)
                before = sums.setdefault(name, np.zeros(tensor.shape, np.float64))
                if tensor.dtype != np.float32 or tensor.shape != before.shape:
                    got = f"{tensor.dtype} {tensor.shape}"
                    raise FedMedError(Reason.INTERNAL, f"{name}: expected float32 {before.shape}, got {got}")
                before += np.float64(examples / total) * tensor
    return {name: values.astype(np.float32) for name, values in sums.items()}

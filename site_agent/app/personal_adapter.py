"""Puts a site's own factors into an adapter that it fetched. Reads and writes files by position, a tensor at a time."""

from __future__ import annotations

from pathlib import Path

from common.adapter import AdapterSpec
from common.errors import InputInvalidError, Reason
from common.ids import Digest
from common.weights_io import WeightsReader, WeightsWriter


def put_own(weights: Path, own: Path, spec: AdapterSpec) -> Digest:
    """Replace ``weights``, an adapter of shape ``spec``, by one with the factors of ``own``; returns its digest.

    Raises:
        InputInvalidError: SPEC_INVALID, when those are not some of its factors.
        UpdateRefusedError: a file is none of safetensors.
    """
    with WeightsReader(weights) as shared, WeightsReader(own) as kept:
        shapes = {tensor.name: tensor.shape for tensor in spec.tensors}
        strange = [slot.name for slot in kept.layout.tensors if shapes.get(slot.name) != slot.shape]
        if strange:
            raise InputInvalidError(
                Reason.SPEC_INVALID, f"own factors: expected those of the adapter, {len(strange)} differ: {strange[:3]}"
            )
        with WeightsWriter(weights, spec.tensors, spec.dtype) as writer:
            for name in spec.names:
                writer.write(name, (kept if name in kept else shared).tensor(name))
    return writer.digest

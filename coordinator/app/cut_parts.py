"""Writes some ranks of an adapter as an adapter of their own, module by module. Decides nothing. Runs in a thread."""

from __future__ import annotations

from pathlib import Path

from common.adapter import A_SUFFIX, B_SUFFIX
from common.weights_io import WeightsReader, WeightsWriter
from coordinator.domain.adapter_parts import Cut
from coordinator.domain.aggregation.ranks import at_scale_of, cut
from coordinator.domain.aggregation.strategy import Factors
from coordinator.domain.values import AdapterFile


def write_part(source: Path, wanted: Cut, out: Path) -> AdapterFile:
    """Write the ranks of ``source`` that ``wanted`` names to ``out``, at the scale of an adapter with just those.

    Raises:
        UpdateRefusedError: a number is too large at that scale.
        OSError: the disk failed.
    """
    spec = wanted.shape
    with WeightsReader(source) as reader, WeightsWriter(out, spec.tensors, spec.dtype) as writer:
        for module in (name.removesuffix(A_SUFFIX) for name in spec.names[::2]):
            whole = Factors(a=reader.tensor(module + A_SUFFIX), b=reader.tensor(module + B_SUFFIX))
            part = cut(whole, wanted.start, wanted.stop)
            # What was scaled as the whole adapter is to be scaled as this one.
            pair = at_scale_of(part, wanted.spec.lora_rank, spec.lora_rank)
            writer.write(module + A_SUFFIX, pair.a)
            writer.write(module + B_SUFFIX, pair.b)
    return AdapterFile(digest=writer.digest, size_bytes=writer.size_bytes)

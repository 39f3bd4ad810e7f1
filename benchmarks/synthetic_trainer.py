"""A trainer that trains nothing: it makes adapters of a given shape and disturbs them, to measure the wire with.

``python -m benchmarks.synthetic_trainer SHAPE ORDER_FOLDER`` speaks the files of `site_agent/orders.py`; an agent runs
it through ``trainer.command``. It reads no note and needs no torch.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import numpy as np

from benchmarks.shapes import SHAPES, adapter_spec
from common.adapter import A_SUFFIX, AdapterSpec, WireDtype
from common.files import write_whole
from common.weights_io import WeightsReader, WeightsWriter
from site_agent.orders import (
    ADAPTER_FILE,
    ORDER,
    ORDER_FILE,
    RESULT,
    RESULT_FILE,
    UPDATE_FILE,
    EvaluateOrder,
    EvaluateResult,
    InitialiseOrder,
    InitialiseResult,
    TrainOrder,
    TrainResult,
)

# Numbers of noise that each tensor repeats: another site's are others, and drawing them takes no time.
NOISE = 4099
NUM_EXAMPLES, NUM_LABEL_TOKENS = 100, 5_000


def main() -> None:
    """Perform one order."""
    shape, folder = sys.argv[1], Path(sys.argv[2])
    order = ORDER.validate_json((folder / ORDER_FILE).read_bytes())
    match order:
        case InitialiseOrder():
            spec = adapter_spec(SHAPES[shape], order.lora, WireDtype(order.wire_dtype))
            _write(folder / UPDATE_FILE, spec, seed=order.seed)
            result: InitialiseResult | TrainResult | EvaluateResult = InitialiseResult(spec=spec)
        case TrainOrder():
            spec = adapter_spec(SHAPES[shape], order.lora, WireDtype(order.wire_dtype))
            _disturb(folder, spec, seed=zlib.crc32(folder.name.encode()))
            result = _trained()
        case EvaluateOrder():
            result = EvaluateResult(
                mean_loss=1.0, num_label_tokens=NUM_LABEL_TOKENS, num_examples=NUM_EXAMPLES, num_passages=NUM_EXAMPLES
            )
    write_whole(folder / RESULT_FILE, RESULT.dump_json(result))


def _write(path: Path, spec: AdapterSpec, seed: int) -> None:
    generator = np.random.default_rng(seed)
    with WeightsWriter(path, spec.tensors, spec.dtype) as writer:
        for tensor in spec.tensors:
            is_a = tensor.name.endswith(A_SUFFIX)
            values = generator.standard_normal(tensor.shape, np.float32) if is_a else np.zeros(tensor.shape, np.float32)
            writer.write(tensor.name, values)


def _disturb(folder: Path, spec: AdapterSpec, seed: int) -> None:
    generator = np.random.default_rng(seed)
    with (
        WeightsReader(folder / ADAPTER_FILE) as reader,
        WeightsWriter(folder / UPDATE_FILE, spec.tensors, spec.dtype) as writer,
    ):
        for tensor in spec.tensors:
            noise = np.resize(np.float32(1e-3) * generator.standard_normal(NOISE, np.float32), tensor.shape)
            writer.write(tensor.name, reader.tensor(tensor.name) + noise)


def _trained() -> TrainResult:
    return TrainResult(
        num_examples=NUM_EXAMPLES,
        num_label_tokens=NUM_LABEL_TOKENS,
        mean_loss=1.0,
        steps=1,
        seconds=0.0,
        tokens_per_second=0.0,
        padding_share=0.0,
        peak_memory_bytes=0,
    )


if __name__ == "__main__":
    main()

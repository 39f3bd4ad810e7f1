"""What every peer's code does alike: reads the work, writes down its rounds, begins with an adapter. Lies beside it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


def read_work() -> dict[str, Any]:
    """The work, as `benchmarks.peers.work` writes it."""
    work: dict[str, Any] = json.loads(Path(os.environ["PEERS_WORK"]).read_text(encoding="utf-8"))
    return work


def note(event: str, number: float) -> None:
    """Write down that a round began, or that its aggregate is there."""
    with Path(read_work()["timeline"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps({"event": event, "at": time.time(), "number": number}) + "\n")


def first_adapter() -> Iterator[tuple[str, NDArray[np.float32]]]:
    """A random and B zero, which is how an adapter begins; the first number of each is zero."""
    generator = np.random.default_rng(7)
    for name, shape in read_work()["tensors"]:
        is_a = name.endswith("lora_A.weight")
        values = generator.standard_normal(shape, np.float32) if is_a else np.zeros(shape, np.float32)
        values.flat[0] = 0.0
        yield name, values

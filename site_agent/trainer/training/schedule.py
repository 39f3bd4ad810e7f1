"""The learning rate over the steps of one round, as a factor. Pure numbers: no torch, no state."""

from __future__ import annotations

import math
from typing import assert_never

from common.terms import Schedule


def learning_rate_factor(schedule: Schedule, step: int, steps: int, warmup_ratio: float) -> float:
    """What the learning rate is multiplied with at ``step`` of ``steps``, counted from 0.

    It rises linearly over the warm-up, whose first step is not wasted on a rate of zero, then follows ``schedule``.
    """
    warmup = math.ceil(steps * warmup_ratio)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    passed = (step - warmup) / max(1, steps - warmup)
    match schedule:
        case Schedule.CONSTANT:
            return 1.0
        case Schedule.LINEAR:
            return 1.0 - passed
        case Schedule.COSINE:
            return 0.5 * (1.0 + math.cos(math.pi * passed))
        case _:
            assert_never(schedule)

"""How long to wait before trying again. Neither waits nor draws random numbers itself."""

from __future__ import annotations

# 2^30 times any base is above any cap that makes sense; without a limit the power overflows a float.
_MAX_DOUBLINGS = 30


def backoff(attempt: int, base_seconds: float, cap_seconds: float, jitter: float) -> float:
    """Seconds to wait after failed attempt number ``attempt``: exponential, with full jitter.

    Formula: ``jitter * min(cap, base * 2^attempt)``, "full jitter" of M. Brooker, "Exponential Backoff And Jitter",
    AWS Architecture Blog, 2015: agents that lost the same coordinator come back spread out.

    Args:
        attempt: Counted from 0.
        base_seconds: Upper end of the first wait.
        cap_seconds: Upper end of every wait.
        jitter: Uniform in [0, 1), drawn by the caller.
    """
    doublings = min(max(attempt, 0), _MAX_DOUBLINGS)
    return jitter * min(cap_seconds, base_seconds * 2.0**doublings)

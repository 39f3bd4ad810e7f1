"""What a fuzzing target is. Runs nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One entrance for a stranger's bytes.

    Attributes:
        modules: Those whose lines the corpus must reach, by name.
        run: Takes any bytes and returns; it raises when a promise is broken: an error that is not typed, two readings
            that differ, a value that does not survive its own encoding.
        seeds: Honest inputs to start from.
    """

    modules: tuple[str, ...]
    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]

"""Simulated federations that die at random places for as long as you like: ``make crashes MINUTES=60 SEED=1``.

What `test_simulation.py` does with a few seeds, with as many as there is time for. Each seed is a run of its own; one
that fails is named, and plays the same again.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from common.tls import harden_tls

harden_tls()  # before anything imports grpc

from tests.simulation.federation import Outcome, simulate  # noqa: E402

# A line as often as this says that it is alive.
TOLD_RUNS = 100


def play(seed: int, ends_at: float, most_crashes: float) -> int:
    """Run after run until there is enough; 1 at the first with a problem."""
    first, deaths, places, began = seed, Counter[str](), 0, time.monotonic()
    while time.monotonic() < ends_at and deaths.total() < most_crashes:
        outcome = simulate(seed)
        deaths.update(outcome.deaths)
        places += sum(outcome.places.values())
        seed += 1
        if outcome.problems:
            _report(seed - 1, outcome)
            return 1
        if (seed - first) % TOLD_RUNS == 0:
            print(f"seeds {first} to {seed - 1}: {deaths.total()} crashes", flush=True)
    seconds = time.monotonic() - began
    kinds = ", ".join(f"{count} times it {death}" for death, count in sorted(deaths.items()))
    print(
        f"{deaths.total()} crashes ({kinds}) in {seed - first} runs with {places} places, seeds {first} to {seed - 1},"
        f" {deaths.total() / seconds:.0f} a second: every run ended as undisturbed"
    )
    return 0


def _report(seed: int, outcome: Outcome) -> None:
    """Say what is wrong, and where everything that happened can be read."""
    trace = Path(tempfile.gettempdir()) / f"crashes-seed-{seed}.txt"
    trace.write_text("\n".join(f"{at:.6f} {who}: {what}" for at, who, what in outcome.trace), encoding="utf-8")
    print(f"seed {seed}, after {outcome.crashes} crashes; what happened is in {trace}")
    for problem in outcome.problems:
        print(f"  {problem}")


def main() -> int:
    """Play; exit code 1 when a run ended otherwise than undisturbed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--seed", type=int, default=1, help="of the first run; the next ones count on")
    options.add_argument("--crashes", type=float, default=math.inf, help="enough of them, whatever the time")
    given = options.parse_args()
    return play(given.seed, time.monotonic() + 60 * given.minutes, given.crashes)


if __name__ == "__main__":
    sys.exit(main())

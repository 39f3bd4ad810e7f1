"""A coordinator that dies at random places for as long as you like: ``make crashes MINUTES=60 SEED=1``.

What `test_coordinator_crashes.py` does with a few seeds, with as many as there is time for; a seed that fails is named
and can be given again: it plays the same.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.fakes.crashes import Fuse
from tests.faults.lives import PlayedAgents, live, outcome_of, sent_files, undisturbed

# Changes of the disk that a life may get to; a run takes some 170.
SHORTEST, LONGEST = 10, 60


async def play(minutes: float, seed: int, folder: Path) -> int:
    """Run after run until the time is up; 1 at the first that differs."""
    files = sent_files(folder)
    wanted, _ = await undisturbed(folder / "undisturbed", files)
    ends_at, first, crashes = time.monotonic() + 60 * minutes, seed, 0
    while time.monotonic() < ends_at:
        root, agents, dies = folder / str(seed), PlayedAgents(files=files), random.Random(seed)
        try:
            while not await live(root, agents, Fuse(dies.randint(SHORTEST, LONGEST))):
                crashes += 1
        except BaseException:
            print(f"seed {seed}: a life ended with an error; its folder is {root}")
            raise
        if await outcome_of(root) != wanted:
            print(f"seed {seed}: the run ended otherwise; its folder is {root}")
            return 1
        shutil.rmtree(root)
        seed += 1
    print(f"{crashes} crashes in {seed - first} runs, seeds {first} to {seed - 1}: every run ended as undisturbed")
    return 0


def main() -> int:
    """Play in a temporary folder, which stays if a run differs."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--seed", type=int, default=1)
    given = options.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="crashes-"))
    failed = asyncio.run(play(given.minutes, given.seed, folder))
    if not failed:
        shutil.rmtree(folder)
    return failed


if __name__ == "__main__":
    sys.exit(main())

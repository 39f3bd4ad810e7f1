"""Kills processes and cuts links of real federations at random, and compares what they publish. ``make soak``.

A campaign is one run: at random moments, one of its processes gets SIGKILL and is started again at once, or every
connection between agents and coordinator is cut. Its seed is printed first; which instruction a fault falls on is for
the machine to say: a seed repeats choices, not instants.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

from common.tls import harden_tls

harden_tls()  # before anything imports grpc: TLS 1.3 only

from tests.faults.processes import Federation, make_terms  # noqa: E402
from tests.faults.proxy import Link  # noqa: E402

ROUNDS = 8
# Between two faults on average: a process needs about as long to start, so that most of them die at work.
MEAN_SECONDS = 2.0
# Beside the names of processes: what is cut. As often as two of them are killed.
LINKS = "links"


class RandomFaults:
    """Kills a random process of ``federation``, or cuts its links, at random moments, drawn from ``seed``."""

    def __init__(self, federation: Federation, seed: int) -> None:
        self.counts: Counter[str] = Counter()
        self._federation = federation
        self._random = random.Random(seed)
        self._targets = [*sorted(federation.arguments), LINKS, LINKS]
        self._next_at = time.monotonic() + self._random.expovariate(1 / MEAN_SECONDS)

    def __call__(self) -> None:
        """Do it, if it is time."""
        if time.monotonic() < self._next_at:
            return
        target = self._random.choice(self._targets)
        if target != LINKS:
            self._federation.kill(target)
        elif self._federation.proxy is not None:
            self._federation.proxy.cut_off(seconds=0.0)
        self.counts[target] += 1
        self._next_at = time.monotonic() + self._random.expovariate(1 / MEAN_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """One run with random faults: how many of what, and what differs from the undisturbed one."""

    seed: int
    faults: dict[str, int]
    versions: int
    differing: list[str]
    done_twice: list[str]
    seconds: float

    @property
    def is_bad(self) -> bool:
        """Whether it ended otherwise than undisturbed."""
        return bool(self.differing or self.done_twice)


def campaign(folder: Path, seed: int, wanted: dict[str, str]) -> Campaign:
    """Run one."""
    began = time.monotonic()
    with Federation(folder, make_terms(ROUNDS), Link()) as federation:
        faults = RandomFaults(federation, seed)
        published = federation.run(faults)
        return Campaign(
            seed=seed,
            faults=dict(faults.counts),
            versions=len(published),
            differing=sorted(version for version in wanted if published.get(version) != wanted[version]),
            done_twice=federation.done_twice(),
            seconds=round(time.monotonic() - began, 1),
        )


def main() -> int:
    """Run campaigns until the time is over; exit code 1 when any of them ended otherwise than undisturbed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1, help="of the first campaign; the next ones count on")
    given = parser.parse_args()
    ends_at = time.monotonic() + 60 * given.minutes
    home = Path(tempfile.mkdtemp(prefix="soak-"))
    with Federation(home / "undisturbed", make_terms(ROUNDS)) as federation:
        wanted = federation.run()
    faults: Counter[str] = Counter()
    bad, seed = [], given.seed
    while time.monotonic() < ends_at:
        print(json.dumps({"seed": seed}), flush=True)
        folder = home / f"seed-{seed}"
        try:
            result = campaign(folder, seed, wanted)
        except AssertionError as error:
            print(json.dumps({"seed": seed, "failed": str(error)}), flush=True)
            bad.append(seed)
        else:
            print(json.dumps(asdict(result)), flush=True)
            faults.update(result.faults)
            if result.is_bad:
                bad.append(seed)
            else:
                shutil.rmtree(folder)
        seed += 1
    if not bad:
        shutil.rmtree(home)
    campaigns = seed - given.seed
    print(json.dumps({"campaigns": campaigns, "faults": dict(faults), "all": faults.total(), "bad_seeds": bad}))
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())

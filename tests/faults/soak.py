"""Kills processes of real federations at random for as long as asked, and compares what they publish. ``make soak``.

A campaign is one run: at random moments, one of its processes gets SIGKILL and is started again at once. Its seed is
printed first; which instruction a kill falls on is for the machine to say: a seed repeats choices, not instants.
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

ROUNDS = 8
# Between two kills on average: a process needs about as long to start, so that most of them die at work.
MEAN_SECONDS = 2.0


class RandomKills:
    """Kills a random process of ``federation`` at random moments, drawn from ``seed``."""

    def __init__(self, federation: Federation, seed: int) -> None:
        self.kills: Counter[str] = Counter()
        self._federation = federation
        self._random = random.Random(seed)
        self._names = sorted(federation.arguments)
        self._next_at = time.monotonic() + self._random.expovariate(1 / MEAN_SECONDS)

    def __call__(self) -> None:
        """Kill, if it is time."""
        if time.monotonic() < self._next_at:
            return
        name = self._random.choice(self._names)
        self._federation.kill(name)
        self.kills[name] += 1
        self._next_at = time.monotonic() + self._random.expovariate(1 / MEAN_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign:
    """One run with random kills: how many of whom, and what differs from the undisturbed one."""

    seed: int
    kills: dict[str, int]
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
    with Federation(folder, make_terms(ROUNDS)) as federation:
        kills = RandomKills(federation, seed)
        published = federation.run(kills)
        return Campaign(
            seed=seed,
            kills=dict(kills.kills),
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
    kills: Counter[str] = Counter()
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
            kills.update(result.kills)
            if result.is_bad:
                bad.append(seed)
            else:
                shutil.rmtree(folder)
        seed += 1
    if not bad:
        shutil.rmtree(home)
    campaigns = seed - given.seed
    print(json.dumps({"campaigns": campaigns, "kills": dict(kills), "all": kills.total(), "bad_seeds": bad}))
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())

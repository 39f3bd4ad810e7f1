"""The synthetic trainer, which notes each start in ``trainer_starts`` of its agent's state folder."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks import synthetic_trainer
from site_agent.orders import RESULT_FILE

if __name__ == "__main__":
    folder = Path(sys.argv[2])
    was_done = (folder / RESULT_FILE).exists()
    with (folder.parents[1] / "trainer_starts").open("a") as starts:
        starts.write(f"{folder.name} {was_done}\n")
    synthetic_trainer.main()

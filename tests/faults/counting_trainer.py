"""The synthetic trainer, which notes when it began and ended in ``trainer_notes`` of its agent's state folder."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks import synthetic_trainer

if __name__ == "__main__":
    folder = Path(sys.argv[2])
    notes = folder.parents[1] / "trainer_notes"
    with notes.open("a") as file:
        file.write(f"began {folder.name}\n")
    synthetic_trainer.main()
    with notes.open("a") as file:
        file.write(f"ended {folder.name}\n")

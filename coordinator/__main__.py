"""``python -m coordinator`` is ``fedmed-coordinator``."""

from coordinator.cli import main

main()

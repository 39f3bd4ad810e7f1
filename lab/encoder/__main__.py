"""``python -m lab.encoder ORDER_FOLDER``: the child process that trains an encoder, or scores one; no network."""

from __future__ import annotations

import sys
from pathlib import Path

from site_agent.trainer.quiet import quiet_libraries


def main() -> int:
    """Perform the order in the folder named; the exit code is that of `site_agent.trainer.runner.run_order`."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m lab.encoder ORDER_FOLDER\n")
        return 2
    quiet_libraries()
    from lab.encoder.perform import perform
    from site_agent.trainer.runner import run_order

    return run_order(Path(sys.argv[1]), perform)


if __name__ == "__main__":
    sys.exit(main())

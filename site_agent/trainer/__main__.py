"""``python -m site_agent.trainer ORDER_FOLDER...``: the child process that holds notes and the GPU, and no network."""

from __future__ import annotations

import sys
from pathlib import Path

from site_agent.trainer.quiet import quiet_libraries


def main() -> int:
    """Perform the orders in the folders named, one after the other; the first that fails is the last."""
    folders = [Path(argument) for argument in sys.argv[1:]]
    if not folders:
        sys.stderr.write("usage: python -m site_agent.trainer ORDER_FOLDER...\n")
        return 2
    quiet_libraries()
    from site_agent.trainer.runner import run_order

    return next((code for folder in folders if (code := run_order(folder)) != 0), 0)


if __name__ == "__main__":
    sys.exit(main())

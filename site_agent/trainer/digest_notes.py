"""``python -m site_agent.trainer.digest_notes FILE...``: the digest of the texts of annotated passages.

What ``fedmed-site data digest`` runs as a child process; it goes into a run's terms as ``gate.test_digest``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from common.errors import FedMedError
from site_agent.trainer.extraction.passage_files import read_passages
from site_agent.trainer.extraction.set_digest import set_digest
from site_agent.trainer.quiet import quiet_libraries


def main() -> int:
    """Print one digest for all files together; the exit code of the process."""
    quiet_libraries()
    try:
        passages = read_passages([Path(argument) for argument in sys.argv[1:]])
    except FedMedError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    sys.stdout.write(f"{set_digest(passages)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

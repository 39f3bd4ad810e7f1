"""``python -m site_agent.trainer.check_notes FILE...``: counts annotated passages, or lists what is wrong with them.

What ``fedmed-site data check`` runs as a child process. It prints counts, line numbers and field names; no text.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

from common.errors import FedMedError
from site_agent.trainer.extraction.examples import training_examples
from site_agent.trainer.extraction.passage_files import read_passages
from site_agent.trainer.quiet import quiet_libraries


def main() -> int:
    """Print one line of counts and one for each entity type; the exit code of the process."""
    quiet_libraries()
    try:
        passages = read_passages([Path(argument) for argument in sys.argv[1:]])
    except FedMedError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    sentences = sum(len(training_examples(passage)) for passage in passages)
    documents = len({passage.document for passage in passages})
    sys.stdout.write(f"{len(passages)} passages of {documents} documents, {sentences} sentences\n")
    types = Counter(entity.type for passage in passages for entity in passage.entities)
    for entity_type, count in sorted(types.items()):
        sys.stdout.write(f"{entity_type:>16} {count}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

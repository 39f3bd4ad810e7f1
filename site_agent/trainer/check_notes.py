"""``python -m site_agent.trainer.check_notes FILE...``: counts annotated passages, or lists what is wrong with them.

What ``fedmed-site data check`` runs as a child process. It prints counts, line numbers and field names; no text.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from common.errors import FedMedError
from site_agent.trainer.extraction.examples import training_examples
from site_agent.trainer.extraction.file_labels import labels_with_folders
from site_agent.trainer.extraction.leakage import find_leaks
from site_agent.trainer.extraction.passage_files import Located, read_located_sets
from site_agent.trainer.extraction.passages import Passage
from site_agent.trainer.extraction.problems import Problems
from site_agent.trainer.extraction.relations import count_across_sentences, count_not_allowed
from site_agent.trainer.quiet import quiet_libraries


def main() -> int:
    """Print one line of counts and one for each type of entity and of relation; the exit code of the process."""
    quiet_libraries()
    options = _parse()
    try:
        labels = labels_with_folders([*options.files, *options.against])
        located = _read(options.files, labels[: len(options.files)])
        if options.against:
            refuse_leaks(_read(options.against, labels[len(options.files) :]), located)
    except FedMedError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    _tell([each.passage for each in located])
    return 0


def _read(files: Sequence[Path], labels: Sequence[str]) -> tuple[Located, ...]:
    return tuple(chain.from_iterable(read_located_sets(files, labels)))


def refuse_leaks(first: Sequence[Located], second: Sequence[Located], others: Sequence[Located] = ()) -> None:
    """Refuse two sets that share a patient, a document or a text; ``others`` are the further sets of the split.

    Raises:
        InputInvalidError: NOTES_INVALID, with where each passage of ``second`` stands that does, and with which one.
    """
    problems = Problems()
    for leak in find_leaks(*([each.passage for each in one] for one in (first, second, others))):
        here, there = second[leak.second].where, first[leak.first].where
        problems.add(f"{here}: expected nothing in common with the other set, got {leak.shared} of {there}")
    problems.refuse_any()


def _tell(passages: Sequence[Passage]) -> None:
    sentences = sum(len(training_examples(passage)) for passage in passages)
    documents = len({passage.document for passage in passages})
    sys.stdout.write(f"{len(passages)} passages of {documents} documents, {sentences} sentences\n")
    types = Counter(entity.type for passage in passages for entity in passage.entities)
    for entity_type, count in sorted(types.items()):
        sys.stdout.write(f"{entity_type:>16} {count}\n")
    relations = Counter(relation.type for passage in passages for relation in passage.relations)
    for relation_type, count in sorted(relations.items()):
        sys.stdout.write(f"{relation_type:>16} {count}\n")
    across = sum(count_across_sentences(passage) for passage in passages)
    if across:
        sys.stdout.write(f"{across} relations lead from one sentence to another: they are not asked for\n")
    tell_not_allowed(sum(count_not_allowed(passage) for passage in passages))


def tell_not_allowed(count: int) -> None:
    """Print how many relations the label schema does not know, if there are any."""
    if count:
        sys.stdout.write(f"{count} relations are not allowed by the label schema: they are not asked for\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="fedmed-site data check", description="Count passages, or list every malformed record by line and field."
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="JSONL files of annotated passages")
    parser.add_argument(
        "--against",
        nargs="+",
        type=Path,
        default=[],
        metavar="OTHER",
        help="files that must share no patient, no document and no text with them",
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

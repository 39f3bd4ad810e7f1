"""``python -m site_agent.trainer.import_notes``: annotated notes of another format to a JSONL file of passages.

What ``fedmed-site data import`` runs as a child process. It prints counts, line numbers and labels; no text.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from common.arguments import whole_number
from common.errors import FedMedError, InputInvalidError, Reason
from common.files import replacing
from site_agent.trainer.check_notes import tell_not_allowed
from site_agent.trainer.extraction.importers.formats import FORMATS
from site_agent.trainer.extraction.importers.gathering import gather, passed_over
from site_agent.trainer.extraction.importers.importing import DEFAULT_WORDS, Import
from site_agent.trainer.extraction.importers.mapping import ODD_EDGES
from site_agent.trainer.extraction.importers.patients import read_patients
from site_agent.trainer.extraction.importers.type_map import TypeMap, load_type_map
from site_agent.trainer.extraction.passage_files import MAX_LINE_BYTES
from site_agent.trainer.extraction.passage_writing import to_line
from site_agent.trainer.extraction.passages import Passage
from site_agent.trainer.extraction.relations import count_not_allowed
from site_agent.trainer.new_files import expect_folder_of
from site_agent.trainer.quiet import quiet_libraries

# Notes are for their owner: nobody else may read the file.
_OWNER_ALONE = 0o600


@dataclass(slots=True)
class _Counts:
    passages: int = 0
    entities: int = 0
    types: Counter[str] = field(default_factory=Counter)
    not_allowed: int = 0

    def add(self, passage: Passage) -> None:
        self.passages += 1
        self.entities += len(passage.entities)
        self.types.update(entity.type for entity in passage.entities)
        self.types.update(relation.type for relation in passage.relations)
        self.not_allowed += count_not_allowed(passage)


def main() -> int:
    """Write the passages and print what they are and what was left out; the exit code of the process."""
    quiet_libraries()
    options = _parse()
    try:
        _import(options)
    except FedMedError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error.filename}: {error.strerror}\n")
        return 1
    return 0


def _import(options: argparse.Namespace) -> None:
    expect_folder_of(options.out)
    if options.out.is_dir():
        raise InputInvalidError(Reason.FIELD_INVALID, f"--out: expected a file, got a folder: {options.out}")
    if options.out.exists() and any(path.exists() and path.samefile(options.out) for path in options.inputs):
        raise InputInvalidError(Reason.FIELD_INVALID, "--out: expected another file than those that are read")
    run = Import(
        types=load_type_map(options.type_map) if options.type_map else TypeMap(),
        max_words=options.words,
        patients=read_patients(options.patients) if options.patients else {},
    )
    of = FORMATS[options.format]
    counts, passed = _Counts(), tuple(passed_over(options.inputs, of))
    with replacing(options.out, _OWNER_ALONE) as file:
        for passage in run.passages(of.read, gather(options.inputs, of)):
            line = to_line(passage, options.format)
            if len(line) > MAX_LINE_BYTES:
                run.problems.add(f"passage {counts.passages + 1}: expected at most {MAX_LINE_BYTES} bytes, got more")
                continue
            file.write(line)
            counts.add(passage)
        run.refuse_unmapped()
        if not options.skip_malformed or not counts.passages:
            run.problems.refuse_any()
        if not counts.passages:
            raise InputInvalidError(Reason.NOTES_INVALID, _nothing(run, passed))
        if options.patients:
            _expect_known_documents(run, options.patients)
    _tell(run, counts, passed)


def _nothing(run: Import, passed: Sequence[str]) -> str:
    left_out = ", ".join([*(f"{what}: {count}" for what, count in sorted(run.left_out.items())), *passed])
    return f"expected at least one passage, got none; nothing is written. Left out: {left_out or 'nothing'}"


def _expect_known_documents(run: Import, table: Path) -> None:
    """Refuse a table of patients that says nothing of what was imported: then its documents are called otherwise."""
    strangers = run.strangers()
    if strangers == len(run.patients):
        problem = f"expected a document of this import, got none among {strangers}"
        raise InputInvalidError(Reason.NOTES_INVALID, f"{table.name}: {problem}")
    if strangers:
        run.left_out["documents in the table of patients that were not met"] = strangers


def _tell(run: Import, counts: _Counts, passed: Sequence[str]) -> None:
    sys.stdout.write(f"{counts.passages} passages of {run.documents} documents\n")
    for name, count in sorted(counts.types.items()):
        sys.stdout.write(f"{name:>16} {count}\n")
    for what, count in sorted(run.left_out.items()):
        sys.stdout.write(f"{'worth a look' if what == ODD_EDGES else 'left out or changed'}: {what}: {count}\n")
    for what in passed:
        sys.stdout.write(f"left out or changed: {what}\n")
    for what in run.use.told(run.types):
        sys.stdout.write(f"{what}\n")
    tell_not_allowed(counts.not_allowed)
    if not counts.entities:
        why = f"the type map drops all {run.entities} of the source" if run.entities else "the source has none"
        sys.stdout.write(f"worth a look: no document has an entity: {why}\n")
    if run.problems.total:
        sys.stderr.write(f"skipped, with {run.problems.message()}\n")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="fedmed-site data import", description="Turn annotated notes of another format into JSONL passages."
    )
    parser.add_argument("format", choices=sorted(FORMATS), help="what the files are")
    parser.add_argument("inputs", nargs="+", type=Path, metavar="IN", help="files, or folders of them")
    parser.add_argument("--out", type=Path, required=True, help="JSONL file to write, readable by you alone")
    parser.add_argument("--type-map", type=Path, help="TOML file: what each type of the source becomes")
    parser.add_argument("--patients", type=Path, help="CSV file with the columns document and patient")
    parser.add_argument(
        "--words", type=whole_number, default=DEFAULT_WORDS, help="the most words of a passage [%(default)s]"
    )
    parser.add_argument("--skip-malformed", action="store_true", help="import the rest, and list what was skipped")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

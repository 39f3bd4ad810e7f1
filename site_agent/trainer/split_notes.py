"""``python -m site_agent.trainer.split_notes``: passages to train, dev and test files that share nothing.

What ``fedmed-site data split`` runs as a child process. It prints counts; no text.
"""

from __future__ import annotations

import argparse
import math
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import chain, combinations
from pathlib import Path

from common.arguments import share
from common.errors import FedMedError, InputInvalidError, Reason
from common.files import sync_folder, write_whole
from site_agent.trainer.check_notes import refuse_leaks
from site_agent.trainer.extraction.passage_files import Located, read_located_sets
from site_agent.trainer.extraction.splitting import GroupBy, split_passages
from site_agent.trainer.new_files import expect_folder_of
from site_agent.trainer.quiet import quiet_libraries

_NAMES = ("train", "dev", "test")
# Notes are for their owner: nobody else may read the files.
_OWNER_ALONE = 0o600


def main() -> int:
    """Write the sets and print their sizes; the exit code of the process."""
    quiet_libraries()
    options = _parse()
    try:
        _split(options)
    except FedMedError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error.filename}: {error.strerror}\n")
        return 1
    return 0


def _split(options: argparse.Namespace) -> None:
    fractions = {name: fraction for name in _NAMES if (fraction := getattr(options, name))}
    if not math.isclose(sum(fractions.values()), 1):
        raise InputInvalidError(
            Reason.FIELD_INVALID, f"fractions: expected a sum of 1, got {sum(fractions.values()):.4g}"
        )
    expect_folder_of(options.out)
    if options.out.exists():
        raise InputInvalidError(Reason.FIELD_INVALID, f"{options.out}: expected a folder that is not there yet")
    located = tuple(chain.from_iterable(read_located_sets(options.files)))
    places = split_passages([each.passage for each in located], GroupBy(options.by), fractions, options.seed)
    sets = {name: [located[place] for place in places[name]] for name in fractions}
    for one, other in combinations(sets, 2):
        refuse_leaks(sets[one], sets[other], [each for name in sets.keys() - {one, other} for each in sets[name]])
    _write(options.out, sets)
    for name, inside in sets.items():
        documents = len({each.passage.document for each in inside})
        sys.stdout.write(f"{name:>5} {len(inside)} passages of {documents} documents\n")


def _write(folder: Path, sets: Mapping[str, Sequence[Located]]) -> None:
    """All sets or none: sets of two different splits beside each other would leak."""
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".partial", dir=folder.parent))
    try:
        for name, inside in sets.items():
            lines = (each.line.removesuffix(b"\n") + b"\n" for each in inside)
            write_whole(partial / f"{name}.jsonl", b"".join(lines), _OWNER_ALONE)
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial)
        raise
    sync_folder(folder.parent)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="fedmed-site data split", description="Split passages into sets that share no patient and no text."
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="JSONL files of annotated passages")
    parser.add_argument("--out", type=Path, required=True, help="new folder for train.jsonl, dev.jsonl, test.jsonl")
    parser.add_argument("--by", choices=[str(each) for each in GroupBy], required=True, help="what is never parted")
    for name, default in zip(_NAMES, (0.8, 0.1, 0.1), strict=True):
        parser.add_argument(f"--{name}", type=share, default=default, help="its share [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="another one gives another split [%(default)s]")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

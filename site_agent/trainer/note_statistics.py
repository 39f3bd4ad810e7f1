"""``python -m site_agent.trainer.note_statistics``: what sets of passages hold, as tables and plots.

What ``fedmed-site data stats`` runs as a child process. It writes counts; no text.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from common.errors import FedMedError, InputInvalidError, Reason
from common.files import make_folder, write_whole
from site_agent.trainer.extraction.passage_files import read_passage_sets
from site_agent.trainer.extraction.statistics import SMALLEST_CELL, describe, overlaps, small_cells
from site_agent.trainer.extraction.statistics_tables import labels_csv, lengths_csv, markdown, overlap_csv
from site_agent.trainer.quiet import quiet_libraries

# Counts of few may point at a person: they are for their owner.
_OWNER_ALONE = 0o600


def main() -> int:
    """Write the tables and plots; the exit code of the process."""
    quiet_libraries()
    options = _parse()
    try:
        _describe(options)
    except FedMedError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"{error.filename}: {error.strerror}\n")
        return 1
    return 0


def _describe(options: argparse.Namespace) -> None:
    if find_spec("matplotlib") is None:
        raise InputInvalidError(
            Reason.SETTINGS_UNSUPPORTED, "plots: expected matplotlib, got none; install the extra `data`"
        )
    sets = dict(zip(_names(options.files), read_passage_sets(options.files), strict=True))
    described = [describe(name, passages) for name, passages in sets.items()]
    found = overlaps(sets)
    from site_agent.trainer.statistics_plots import draw_labels, draw_lengths, draw_overlap

    files: dict[str, str | bytes] = {
        "labels.csv": labels_csv(described),
        "labels.png": draw_labels(described),
        "lengths.csv": lengths_csv(described),
        "lengths.png": draw_lengths(described),
    }
    if found:
        files |= {"overlap.csv": overlap_csv(found), "overlap.png": draw_overlap(found)}
    _write(options.out, files | {"statistics.md": markdown(described, found)})
    for each in described:
        sys.stdout.write(f"{each.name}: {each.passages} passages, {sum(each.entities.values())} entities\n")
    sys.stdout.write(
        f"{options.out / 'statistics.md'}: for your site alone; "
        f"counts below {SMALLEST_CELL}, which may point at a person: {small_cells(described)}\n"
    )


def _names(files: Sequence[Path]) -> list[str]:
    """What tables and plots call each set: as little of its path as tells it from the others."""
    short, long = [file.stem for file in files], [f"{file.absolute().parent.name}/{file.stem}" for file in files]
    names = short if len(set(short)) == len(files) else long
    return names if len(set(names)) == len(files) else [f"{name} {place}" for place, name in enumerate(names, start=1)]


def _write(folder: Path, files: Mapping[str, str | bytes]) -> None:
    make_folder(folder, 0o700)
    for name, content in files.items():
        write_whole(folder / name, content.encode() if isinstance(content, str) else content, _OWNER_ALONE)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="fedmed-site data stats", description="Tables and plots of what sets of passages hold, one set a file."
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="JSONL files of annotated passages")
    parser.add_argument("--out", type=Path, required=True, help="folder for Markdown, CSV and PNG files")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

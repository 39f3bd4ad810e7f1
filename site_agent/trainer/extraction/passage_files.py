"""JSONL files of annotated passages into memory, or one error that lists everything wrong. It parses no JSON itself.

Of a file the error shows its name, line numbers and field names; never a value.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO

from site_agent.trainer.extraction.file_labels import labels_without_folders
from site_agent.trainer.extraction.passage_records import parse_record
from site_agent.trainer.extraction.passages import Passage
from site_agent.trainer.extraction.problems import Problems

# A whole discharge summary with thousands of entities fits; what does not is no passage.
MAX_LINE_BYTES = 4 * 2**20
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A passage, the line that holds it, and where that line stands: a file's name and a number."""

    passage: Passage
    where: str
    line: bytes = field(repr=False)


def read_passages(paths: Sequence[Path]) -> tuple[Passage, ...]:
    """Read every passage of every file, in order.

    Raises:
        InputInvalidError: as `read_located_sets`.
    """
    return tuple(chain.from_iterable(read_passage_sets(paths)))


def read_passage_sets(paths: Sequence[Path]) -> tuple[tuple[Passage, ...], ...]:
    """Read files of passages, one set a file: what one file annotates, another may not.

    Raises:
        InputInvalidError: as `read_located_sets`.
    """
    return tuple(tuple(each.passage for each in located) for located in read_located_sets(paths))


def read_located_sets(paths: Sequence[Path], labels: Sequence[str] = ()) -> tuple[tuple[Located, ...], ...]:
    """Read files of passages, one set a file, with where each passage stands.

    Blank lines and a leading byte order mark are passed over.

    Args:
        paths: The files.
        labels: What messages call each; without any, its name alone, for the message may leave the site.

    Raises:
        InputInvalidError: NOTES_INVALID, with all problems of all files together.
    """
    problems = Problems()
    sets: list[tuple[Located, ...]] = []
    first_seen: dict[str, str] = {}
    for path, label in zip(paths, labels or labels_without_folders(paths), strict=True):
        located: list[Located] = []
        found = 0
        for where, line, outcome in _records(path, label):
            match outcome:
                case Passage() if outcome.id in first_seen:
                    problems.add(f"{where}: id: expected every passage id once, got that of {first_seen[outcome.id]}")
                case Passage():
                    first_seen[outcome.id] = where
                    located.append(Located(passage=outcome, where=where, line=line))
                case _:
                    for problem in outcome:
                        problems.add(f"{where}: {problem}")
            found += 1
        sets.append(tuple(located))
        if not found:
            problems.add(f"{label}: expected at least one passage, got an empty file")
    if not paths:
        problems.add("expected at least one file, got none")
    problems.refuse_any()
    return tuple(sets)


def _records(path: Path, label: str) -> Iterator[tuple[str, bytes, Passage | tuple[str, ...]]]:
    """Where each record stands, its line, and what it is; a file that cannot be read is one malformed record."""
    try:
        with path.open("rb") as stream:
            for number, line in _lines(stream):
                where = f"{label}, line {number}"
                if line is None:
                    yield where, b"", (f"expected at most {MAX_LINE_BYTES} bytes, got more",)
                elif line.strip():
                    yield where, line, parse_record(line)
    except OSError as error:
        yield label, b"", (f"cannot be read ({type(error).__name__})",)


def _lines(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Lines counted from 1; None for one of more than `MAX_LINE_BYTES`, which is never held whole."""
    for number in count(1):
        line = stream.readline(MAX_LINE_BYTES + 1)
        if not line:
            return
        if len(line) <= MAX_LINE_BYTES:
            yield number, line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE_BYTES)
        yield number, None

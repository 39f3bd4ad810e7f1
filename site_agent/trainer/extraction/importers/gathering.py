"""Files and folders to units that a reader takes. It parses nothing; of a file, messages show its name alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from site_agent.trainer.extraction.importers.formats import Format
from site_agent.trainer.extraction.importers.source import Problem, Unit

MAX_FILE_BYTES = 128 * 2**20


def gather(paths: Sequence[Path], of: Format) -> Iterator[Unit | Problem]:
    """The units of files, and of the files in folders by the order of their names; what cannot be read is a problem."""
    for path in paths:
        files = _inside(path, of) if path.is_dir() else [path]
        if not files:
            expected = " or ".join(of.suffixes)
            yield Problem(where=path.name, what=f"expected files that end in {expected}, got none")
        for file in files:
            yield _unit(file, of)


def _inside(folder: Path, of: Format) -> list[Path]:
    found = chain.from_iterable(folder.glob(f"*{suffix}") for suffix in of.suffixes)
    return sorted(path for path in found if path.is_file())


def _unit(path: Path, of: Format) -> Unit | Problem:
    content = _read(path)
    if isinstance(content, Problem):
        return content
    annotations = _read(path.with_suffix(of.companion)) if of.companion else b""
    if isinstance(annotations, Problem):
        return annotations
    return Unit(name=path.name, stem=path.stem, content=content, annotations=annotations)


def _read(path: Path) -> bytes | Problem:
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        return Problem(where=path.name, what=f"cannot be read ({type(error).__name__})")
    if len(content) > MAX_FILE_BYTES:
        return Problem(where=path.name, what=f"expected at most {MAX_FILE_BYTES} bytes, got more")
    return content

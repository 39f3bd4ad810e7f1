"""Files and folders to units that a reader takes. It parses nothing; of a file, messages show its name alone.

A folder's own files are read, not those of folders inside it. What lies there and is not read is told by `passed_over`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from pathlib import Path

from site_agent.trainer.extraction.importers.formats import Format
from site_agent.trainer.extraction.importers.source import Problem, Unit

MAX_FILE_BYTES = 128 * 2**20
_NAMES_SHOWN = 3


def gather(paths: Sequence[Path], of: Format) -> Iterator[Unit | Problem]:
    """The units of files, and of the files in folders by the order of their names; what cannot be read is a problem."""
    for path in paths:
        if not path.is_dir():
            yield _unit(path, of)
            continue
        files = _inside(path, of.suffixes)
        if not files:
            found = "; ".join(["got none", *passed_over([path], of)])
            yield Problem(where=path.name, what=f"expected files that end in {_either(of)}, {found}")
        for file in files:
            yield _unit(file, of)
        yield from _alone(path, of)


def passed_over(paths: Sequence[Path], of: Format) -> Iterator[str]:
    """What the folders among ``paths`` hold that is not read and looks as if it were meant: counts, and first names."""
    suffixes = (*of.suffixes, *([of.companion] if of.companion else []))
    known = {path.resolve() for path in paths}
    below, cased = dict[Path, str](), dict[Path, str]()
    for folder in (path for path in paths if path.is_dir()):
        for parent, _, names in os.walk(folder):
            is_read = Path(parent).resolve() in known
            for name in names:
                path = Path(parent, name)
                is_passed = name.lower().endswith(suffixes) and not (is_read and name.endswith(suffixes))
                if is_passed and path.resolve() not in known:
                    found, told = (cased, name) if is_read else (below, str(path.relative_to(folder)))
                    found[path.resolve()] = told
    if below:
        yield f"files in folders inside: {_first(below.values())}"
    if cased:
        yield f"files whose suffix is not in lower case: {_first(cased.values())}"


def _first(names: Collection[str]) -> str:
    """How many there are, and what the first ones are called."""
    shown = sorted(names)[:_NAMES_SHOWN]
    return f"{len(names)} ({', '.join(shown)}{' and others' if len(names) > len(shown) else ''})"


def _inside(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    found = chain.from_iterable(folder.glob(f"*{suffix}") for suffix in suffixes)
    return sorted(path for path in found if path.is_file())


def _alone(folder: Path, of: Format) -> Iterator[Problem]:
    """Files of annotations in a folder that no text stands beside."""
    for path in _inside(folder, [of.companion]) if of.companion else ():
        if not any(path.with_suffix(suffix).is_file() for suffix in of.suffixes):
            yield Problem(where=path.name, what=f"expected a text beside it that ends in {_either(of)}, got none")


def _either(of: Format) -> str:
    return " or ".join(of.suffixes)


def _unit(path: Path, of: Format) -> Unit | Problem:
    if of.companion and path.suffix.lower() == of.companion:
        return Problem(where=path.name, what=f"expected the text, which ends in {_either(of)}, got its annotations")
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

"""Files and folders to units that a reader takes. It parses nothing; of a file, messages show its name alone.

A folder's own files are read, not those of folders inside it. What lies there and is not read is told by `passed_over`,
without the names of folders, which may be those of patients.
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
# What lies in a folder and is not read: of files some names are told, of folders none.
_BELOW, _CASED = "files in folders inside", "files whose suffix is not in lower case"
_LINKED, _CLOSED = "links to folders, which are not followed", "folders that cannot be read"


def gather(paths: Sequence[Path], of: Format) -> Iterator[Unit | Problem]:
    """The units of files, and of the files in folders by the order of their names; what cannot be read is a problem."""
    for path in paths:
        if not path.is_dir():
            yield _unit(path, of)
            continue
        files = _inside(path, of.suffixes)
        if not files:
            found = "; ".join(["got none", *passed_over([path], of)])
            yield Problem(where=_shown(path), what=f"expected files that end in {_either(of)}, {found}")
        for file in files:
            yield _unit(file, of)
        yield from _alone(path, of)


def passed_over(paths: Sequence[Path], of: Format) -> Iterator[str]:
    """What the folders among ``paths`` hold that is not read and looks as if it were meant: counts, and first names."""
    suffixes = (*of.suffixes, *([of.companion] if of.companion else []))
    known = {os.path.realpath(path) for path in paths}
    found: dict[str, dict[str, str]] = {_BELOW: {}, _CASED: {}, _LINKED: {}, _CLOSED: {}}
    for folder in (path for path in paths if path.is_dir()):
        for what, path in _beside(folder, suffixes, known):
            place = os.path.realpath(path)
            if place not in known or what == _CLOSED:
                found[what][place] = _shown(path)
    for what, names in found.items():
        if names:
            yield f"{what}: {_first(names.values()) if what in (_BELOW, _CASED) else len(names)}"


def _beside(folder: Path, suffixes: tuple[str, ...], known: Collection[str]) -> Iterator[tuple[str, Path]]:
    """What lies in a folder and in those inside it, beside the files that are read, and which kind each is of."""
    closed: list[OSError] = []
    for parent, folders, names in os.walk(folder, onerror=closed.append):
        here = os.path.realpath(parent)
        is_read = here in known
        for name in names:
            if name.lower().endswith(suffixes) and not (is_read and name.endswith(suffixes)):
                yield _CASED if is_read else _BELOW, Path(parent, name)
        # Unlike Path.is_symlink, this does not fail where a folder can be listed and no more.
        inside = (Path(here, name) for name in folders)
        yield from ((_LINKED, path) for path in inside if os.path.realpath(path) != str(path))
    yield from ((_CLOSED, Path(error.filename)) for error in closed)


def _first(names: Collection[str]) -> str:
    """How many there are, and what the first ones are called."""
    different = sorted(set(names))
    others = " and others" if len(different) > _NAMES_SHOWN else ""
    return f"{len(names)} ({', '.join(different[:_NAMES_SHOWN])}{others})"


def _shown(path: Path) -> str:
    """What messages call a file: its name, with escapes for what a terminal obeys and for bytes that are no UTF-8."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in path.name)


def _inside(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    found = chain.from_iterable(folder.glob(f"*{suffix}") for suffix in suffixes)
    return sorted(path for path in found if path.is_file())


def _alone(folder: Path, of: Format) -> Iterator[Problem]:
    """Files of annotations in a folder that no text stands beside."""
    for path in _inside(folder, [of.companion]) if of.companion else ():
        if not any(path.with_suffix(suffix).is_file() for suffix in of.suffixes):
            yield Problem(where=_shown(path), what=f"expected a text beside it that ends in {_either(of)}, got none")


def _either(of: Format) -> str:
    return " or ".join(of.suffixes)


def _unit(path: Path, of: Format) -> Unit | Problem:
    if of.companion and path.suffix.lower() == of.companion:
        return Problem(where=_shown(path), what=f"expected the text, which ends in {_either(of)}, got its annotations")
    content = _read(path)
    if isinstance(content, Problem):
        return content
    annotations = _read(path.with_suffix(of.companion)) if of.companion else b""
    if isinstance(annotations, Problem):
        return annotations
    return Unit(name=_shown(path), stem=path.stem, content=content, annotations=annotations)


def _read(path: Path) -> bytes | Problem:
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        return Problem(where=_shown(path), what=f"cannot be read ({type(error).__name__})")
    if len(content) > MAX_FILE_BYTES:
        return Problem(where=_shown(path), what=f"expected at most {MAX_FILE_BYTES} bytes, got more")
    return content

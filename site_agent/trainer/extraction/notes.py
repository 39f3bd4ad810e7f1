"""Plain-text notes for extraction: files in, notes out. No annotation, no model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from common.errors import InputInvalidError, Reason

NOTE_SUFFIX = ".txt"
MAX_NOTE_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """One text, every character as it is in its file: a line end of two characters counts as two.

    Attributes:
        name: The file's name without its suffix.
    """

    name: str
    text: str = field(repr=False)


def read_notes(path: Path) -> tuple[Note, ...]:
    """Read one file, or the ``.txt`` files of a folder in the order of their names.

    Raises:
        InputInvalidError: NOTES_INVALID, with every file that cannot be read as UTF-8 text.
    """
    files = sorted(path.glob(f"*{NOTE_SUFFIX}")) if path.is_dir() else [path]
    problems = [] if files else [f"{path.name}: expected at least one {NOTE_SUFFIX} file, got none"]
    notes = []
    for file in files:
        outcome = _read(file)
        if isinstance(outcome, Note):
            notes.append(outcome)
        else:
            problems.append(f"{file.name}: {outcome}")
    if problems:
        raise InputInvalidError(Reason.NOTES_INVALID, "\n".join(problems))
    return tuple(notes)


def _read(file: Path) -> Note | str:
    """The note, or what is wrong with its file; a decoder's exception holds the text, so none is kept or chained."""
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_NOTE_BYTES + 1)
    except OSError as error:
        return f"cannot be read ({type(error).__name__})"
    if len(content) > MAX_NOTE_BYTES:
        return f"expected at most {MAX_NOTE_BYTES} bytes, got more"
    try:
        return Note(name=file.stem, text=content.decode())
    except UnicodeDecodeError as error:
        return f"expected UTF-8, got something else at byte {error.start + 1}"

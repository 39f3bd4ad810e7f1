"""Where a command is asked to write: refused in words while nothing is done yet. It writes nothing."""

from __future__ import annotations

from pathlib import Path

from common.errors import InputInvalidError, Reason


def expect_folder_of(out: Path) -> None:
    """Refuse a place in a folder that is not there.

    Raises:
        InputInvalidError: FIELD_INVALID, with the folder.
    """
    if not out.parent.is_dir():
        raise InputInvalidError(Reason.FIELD_INVALID, f"--out: expected a folder that is there, got none: {out.parent}")

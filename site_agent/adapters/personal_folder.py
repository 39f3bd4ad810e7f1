"""Factors that stay at the site, in its state folder. Nothing of it is ever sent.

``STATE_DIR/personal/RUN.TERMS/ROUND.safetensors`` is what the site's training made in that round, for the run of that
name and those terms (the first half of their digest): written whole, by round, so that a round which is trained again
after a crash starts from what it started from. The last two rounds' stay.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from common.errors import InputInvalidError, Reason
from common.files import PARTIAL_SUFFIX, make_folder, replacing, sync_folder
from common.ids import check_name
from common.terms import Terms

_SUFFIX = ".safetensors"
_TERMS_DIGITS = 32
# A round that is trained again needs the one before.
_KEPT_ROUNDS = 2


class PersonalFolder:
    """The `PersonalAdapters` port on a folder; ``head_start`` names the run from whose factors a new one begins."""

    def __init__(self, state_dir: Path, head_start: str = "") -> None:
        self._root = state_dir.resolve() / "personal"
        self._head_start = head_start

    def lay_out(self, terms: Terms, round_number: int, target: Path) -> None:
        """Copy what the round starts from to ``target``; see the port.

        Raises:
            InputInvalidError: FIELD_INVALID, when there is none of the run of the head start, or several.
        """
        earlier = [path for path in _rounds(self._folder(terms)) if int(path.stem) < round_number]
        source = earlier[-1] if earlier else self.latest(self._head_start) if self._head_start else None
        target.unlink(missing_ok=True)
        if source is not None:
            _copy(source, target)

    def keep(self, terms: Terms, round_number: int, source: Path) -> None:
        """Keep what came out of the round; see the port."""
        folder = self._folder(terms)
        make_folder(folder, 0o700)
        for partial in folder.glob(f".*{PARTIAL_SUFFIX}"):  # of a life that was cut off
            partial.unlink()
        _copy(source, folder / f"{round_number:05d}{_SUFFIX}")
        for path in _rounds(folder)[:-_KEPT_ROUNDS]:
            path.unlink()
        sync_folder(folder)

    def latest(self, run: str) -> Path:
        """What the site kept last in the run of that name.

        Raises:
            InputInvalidError: NAME_INVALID, or FIELD_INVALID: there is none, or runs of other terms had that name too.
        """
        folders = sorted(self._root.glob(f"{check_name(run, 'run')}.*"))
        if len(folders) != 1 or not _rounds(folders[0]):
            found = ", ".join(folder.name for folder in folders) or "none"
            raise InputInvalidError(
                Reason.FIELD_INVALID, f"run {run}: expected personal factors of one run, got {found}"
            )
        return _rounds(folders[0])[-1]

    def _folder(self, terms: Terms) -> Path:
        return self._root / f"{terms.name}.{terms.digest.removeprefix('sha256:')[:_TERMS_DIGITS]}"


def _rounds(folder: Path) -> list[Path]:
    """Oldest first."""
    return sorted(path for path in folder.glob(f"*{_SUFFIX}") if path.stem.isdecimal())


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as content, replacing(target, mode=0o600) as copy:
        shutil.copyfileobj(content, copy, 1 << 20)

"""The assignments this agent knows, one folder each: what it must do, where it stands, and the order's files.

``STATE_DIR/assignments/ID/assignment.json`` is the entry, replaced whole at each step. The same folder is the order
folder of the trainer. It decides nothing: which stage follows is the machine's business.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from common.files import make_folder, sync_folder, write_whole
from common.ids import AssignmentId
from site_agent.adapters.order_folder import TRAINER_LOG
from site_agent.app.ports import Entry
from site_agent.orders import FAILURE_FILE

ENTRY_FILE = "assignment.json"
# Ended assignments that are remembered, each with its trainer's log, for the people at the site.
KEPT_ENDED = 20

_ENTRY = TypeAdapter(Entry)


class FileJournal:
    """The `Journal` port on a folder. One agent at a time may use it (the wiring locks the state folder)."""

    def __init__(self, state_dir: Path) -> None:
        self._root = state_dir.resolve() / "assignments"
        make_folder(self._root, 0o700)

    def save(self, entry: Entry) -> None:
        """Store ``entry``; see the port."""
        folder = self.folder(entry.assignment.assignment_id)
        make_folder(folder, 0o700)
        write_whole(folder / ENTRY_FILE, _ENTRY.dump_json(entry))
        if not entry.state.stage.is_open:
            _lighten(folder)
            self._forget_oldest()

    def find(self, assignment_id: AssignmentId) -> Entry | None:
        """The entry of this id."""
        return _read(self.folder(assignment_id))

    def open_entries(self) -> list[Entry]:
        """What is still to be done, oldest first; what an earlier life had no time to sync or to remove is."""
        entries = []
        for folder in self._folders():
            sync_folder(folder)  # nothing may be built on a name that a power cut can still take back
            entry = _read(folder)
            if entry is None:  # of no assignment
                shutil.rmtree(folder)
            elif entry.state.stage.is_open:
                entries.append(entry)
            else:
                _lighten(folder)
        return entries

    def folder(self, assignment_id: AssignmentId) -> Path:
        """The order folder; ids were checked to be 32 hex digits when they came in."""
        return self._root / assignment_id

    def _folders(self) -> list[Path]:
        """All folders, the one least recently stored first."""
        return sorted(self._root.iterdir(), key=lambda folder: (_stored_at(folder), folder.name))

    def _forget_oldest(self) -> None:
        ended = [folder for folder in self._folders() if not _is_open(folder)]
        for folder in ended[:-KEPT_ENDED]:
            shutil.rmtree(folder)


def _read(folder: Path) -> Entry | None:
    """The entry in ``folder``; None too for one of another version of this program that means nothing here.

    The coordinator hands an assignment that it still wants out again.
    """
    try:
        return _ENTRY.validate_json((folder / ENTRY_FILE).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def _is_open(folder: Path) -> bool:
    entry = _read(folder)
    return entry is not None and entry.state.stage.is_open


def _stored_at(folder: Path) -> int:
    try:
        return (folder / ENTRY_FILE).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def _lighten(folder: Path) -> None:
    """Remove everything but the entry and what the trainer said of itself."""
    for path in folder.iterdir():
        if path.name in {ENTRY_FILE, TRAINER_LOG, FAILURE_FILE}:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()

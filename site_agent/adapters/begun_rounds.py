"""When this site began which assignments to train: one small file in the state folder. It counts nothing.

``STATE_DIR/begun.json`` is replaced whole, and before anything of the assignment is done, so that a killed agent has
used up what it began. What is older than two days counts in no day and is left out.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from pydantic import TypeAdapter

from common.files import make_folder, write_whole
from common.ids import AssignmentId

FILE = "begun.json"
KEPT = timedelta(days=2)

_BEGUN = TypeAdapter(dict[AssignmentId, datetime])


class BegunFile:
    """The `BegunRounds` port on a file. One agent at a time may use it (the wiring locks the state folder)."""

    def __init__(self, state_folder: Path) -> None:
        self._path = state_folder.resolve() / FILE

    def begun(self) -> dict[AssignmentId, datetime]:
        """See the port."""
        try:
            return _BEGUN.validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return {}

    def begin(self, assignment_id: AssignmentId, at: datetime) -> None:
        """See the port."""
        begun = self.begun()
        if assignment_id in begun:
            return
        make_folder(self._path.parent, 0o700)
        kept = {known: since for known, since in begun.items() if at - since < KEPT}
        write_whole(self._path, _BEGUN.dump_json({**kept, assignment_id: at}), 0o600)

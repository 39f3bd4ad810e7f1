"""What the shell must do after a step. Each command has an id, is stored with the step, and may be performed twice."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from common.ids import RunId


class CommandKind(StrEnum):
    """Everything that a run asks of its shell. Assignments are not among them: they are read off the run."""

    CUT_PARTS = "cut_parts"
    AGGREGATE = "aggregate"
    PUBLISH = "publish"
    DELETE_UPDATES = "delete_updates"


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One thing to do for one round of one run; round 0 stands for INITIALISE."""

    kind: CommandKind
    run_id: RunId
    round_number: int

    @property
    def command_id(self) -> str:
        """The same for the same work, so that storing it twice stores it once."""
        return f"{self.run_id}/{self.round_number}/{self.kind}"

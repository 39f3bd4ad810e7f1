"""All that is wrong with an input, gathered so that a person sees it at once. It never holds text of a note."""

from __future__ import annotations

from dataclasses import dataclass, field

from common.errors import InputInvalidError, Reason

MAX_PROBLEMS_SHOWN = 50


@dataclass(slots=True)
class Problems:
    """The first problems in words, the rest as a count, so that memory stays bounded."""

    shown: list[str] = field(default_factory=list)
    total: int = 0

    def add(self, problem: str) -> None:
        """Add one problem: where, expected, got."""
        self.total += 1
        if len(self.shown) < MAX_PROBLEMS_SHOWN:
            self.shown.append(problem)

    def message(self) -> str:
        """How many there are, then the first ones, one a line."""
        more = self.total - len(self.shown)
        lines = [*self.shown, *([f"and {more} more"] if more else [])]
        return f"problems in the notes: {self.total}\n" + "\n".join(lines)

    def refuse_any(self) -> None:
        """Refuse the input if anything is wrong with it.

        Raises:
            InputInvalidError: NOTES_INVALID, with all problems together.
        """
        if self.total:
            raise InputInvalidError(Reason.NOTES_INVALID, self.message())

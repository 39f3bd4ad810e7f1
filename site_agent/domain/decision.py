"""A yes, or a no with a reason: what every policy of the site returns. It acts on nothing."""

from __future__ import annotations

from dataclasses import dataclass

from common.errors import Reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Yes, or no with a reason.

    Attributes:
        detail: For the people at the site, in its own log and files.
        may_change: Waiting may turn this no into a yes: a person decides, or the hours come.
    """

    reason: Reason | None = None
    detail: str = ""
    may_change: bool = False

    @property
    def is_allowed(self) -> bool:
        """Whether the answer is yes."""
        return self.reason is None


ALLOWED = Decision()


def first_no(*decisions: Decision) -> Decision:
    """The first no among ``decisions``, or ALLOWED."""
    return next((each for each in decisions if not each.is_allowed), ALLOWED)

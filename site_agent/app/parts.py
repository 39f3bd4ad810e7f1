"""Everything the agent's use cases work with, wired once per process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from common.signing import SigningKey
from site_agent.app.ordering import LocalSettings
from site_agent.app.ports import (
    Approvals,
    BegunRounds,
    Coordinator,
    DescribeFile,
    Entry,
    Journal,
    MeasureMove,
    Observer,
    PersonalAdapters,
    Trainer,
)
from site_agent.app.retrying import Patience
from site_agent.app.story import tell_move
from site_agent.domain.policy import SitePolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The ports, and what the site decides for itself.

    Attributes:
        now: The time, in the site's own time zone.
    """

    coordinator: Coordinator
    trainer: Trainer
    journal: Journal
    personal: PersonalAdapters
    approvals: Approvals
    begun: BegunRounds
    describe_file: DescribeFile
    measure_move: MeasureMove
    observer: Observer
    policy: SitePolicy
    local: LocalSettings
    now: Callable[[], datetime]
    patience: Patience
    signing_key: SigningKey | None = None

    def record(self, entry: Entry) -> None:
        """Store where an assignment stands now; then tell of it."""
        self.journal.save(entry)
        tell_move(entry)
        self.observer.assignment_moved(entry)

"""Everything the agent's use cases work with, wired once per process."""

from __future__ import annotations

from dataclasses import dataclass

from site_agent.app.ordering import LocalSettings
from site_agent.app.ports import Coordinator, DescribeFile, Entry, Journal, Observer, PersonalAdapters, Trainer
from site_agent.app.retrying import Patience
from site_agent.app.story import tell_move
from site_agent.domain.eligibility import SitePolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The ports, and what the site decides for itself."""

    coordinator: Coordinator
    trainer: Trainer
    journal: Journal
    personal: PersonalAdapters
    describe_file: DescribeFile
    observer: Observer
    policy: SitePolicy
    local: LocalSettings
    patience: Patience

    def record(self, entry: Entry) -> None:
        """Store where an assignment stands now; then tell of it."""
        self.journal.save(entry)
        tell_move(entry)
        self.observer.assignment_moved(entry)

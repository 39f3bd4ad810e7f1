"""Whether the coordinator answers: waited for patiently, told once when it goes and once when it is back."""

from __future__ import annotations

from common.errors import FedMedError, Reason
from common.logging import get_logger
from site_agent.app.ports import Observer
from site_agent.app.retrying import Patience

_OWN_REASONS = frozenset({Reason.LEDGER_UNWRITABLE, Reason.LEDGER_BROKEN})


class Presence:
    """What the polls say of the coordinator."""

    def __init__(self, patience: Patience, observer: Observer) -> None:
        self._patience = patience
        self._observer = observer
        self._log = get_logger("site_agent")
        self._is_present: bool | None = None
        self._away_for: Reason | None = None
        self._failed_polls = 0

    def note(self) -> None:
        """A poll was answered."""
        if not self._is_present:
            self._log.info("coordinator_reached" if self._is_present is None else "coordinator_back")
            self._observer.connection_changed(is_connected=True)
        self._is_present, self._away_for, self._failed_polls = True, None, 0

    async def wait(self, error: FedMedError) -> None:
        """A poll failed: wait before the next."""
        if self._is_present is not False or self._away_for is not error.reason:
            event = "nothing_may_leave" if error.reason in _OWN_REASONS else "coordinator_away"
            self._log.warning(event, reason=str(error.reason))
            self._observer.connection_changed(is_connected=False)
        self._is_present, self._away_for = False, error.reason
        wait_seconds = self._patience.wait_seconds(self._failed_polls)
        self._failed_polls += 1
        await self._patience.sleep(wait_seconds)

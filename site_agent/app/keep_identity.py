"""Keeps the site's certificate alive: renewed at two thirds of its life, or found replaced. It holds no key."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from common.clock import Clock
from common.errors import FedMedError, Reason
from common.logging import get_logger, log_fault
from common.rotation import is_alarming, renewal_due_at, seconds_to_next_look
from site_agent.app.ports import Sleep


class Certified(Protocol):
    """What a certificate says of its time."""

    @property
    def valid_from(self) -> datetime: ...  # noqa: D102
    @property
    def expires_at(self) -> datetime: ...  # noqa: D102


class OwnIdentity(Protocol):
    """The identity that the agent calls by."""

    def current(self) -> Certified:
        """What it is now; whoever else may have replaced it."""

    @property
    def problem(self) -> Reason | None:
        """Why what was put in its place last is not taken."""

    async def renew(self) -> None:
        """Put a new key and certificate in place; calls that are under way go on.

        Raises:
            FedMedError: The coordinator said no, or does not answer.
            OSError: They cannot be stored.
        """


async def keep_identity(identity: OwnIdentity, clock: Clock, sleep: Sleep) -> None:
    """For ever: renew the certificate when it is due, and say so; say, too, when that does not succeed."""
    while True:
        await look_after(identity, clock)
        now = identity.current()
        await sleep(seconds_to_next_look(now.valid_from, now.expires_at, clock.now()))


async def look_after(identity: OwnIdentity, clock: Clock) -> None:
    """Renew the certificate if it is due."""
    log, before = get_logger("site_agent"), identity.current()
    if identity.problem is not None:
        log.warning("identity_not_taken", reason=str(identity.problem))
    if clock.now() < renewal_due_at(before.valid_from, before.expires_at):
        return
    try:
        await identity.renew()
    except FedMedError as error:
        log.warning("certificate_not_renewed", reason=str(error.reason), expires_at=before.expires_at.isoformat())
    except Exception as error:  # a full disk, say, or an answer that nobody foresaw; neither ends the agent
        log_fault(log, "certificate_not_renewed", error, expires_at=before.expires_at.isoformat())
    after = identity.current()
    if after.expires_at > before.expires_at:
        log.info("certificate_renewed", expires_at=after.expires_at.isoformat())
    elif is_alarming(after.valid_from, after.expires_at, clock.now()):
        log.error("certificate_expires", expires_at=after.expires_at.isoformat())

"""When a certificate is renewed, and when somebody should hear of it. Arithmetic alone."""

from __future__ import annotations

from datetime import datetime


def renewal_due_at(valid_from: datetime, expires_at: datetime) -> datetime:
    """Two thirds into a certificate's life: a third is left for whatever keeps the renewal from succeeding."""
    return valid_from + (expires_at - valid_from) * 2 / 3


def is_alarming(valid_from: datetime, expires_at: datetime, now: datetime) -> bool:
    """Whether so little is left (a tenth of the life) that a person should look why it was not renewed."""
    return expires_at - now < (expires_at - valid_from) / 10


def seconds_to_next_look(valid_from: datetime, expires_at: datetime, now: datetime) -> float:
    """When to look after a certificate again: when it is due, or, when that failed, a twentieth of what is left later.

    Never sooner than in a minute nor later than in an hour: the folder may be changed by others, and the clock be set.
    """
    due_at = renewal_due_at(valid_from, expires_at)
    wait = due_at - now if now < due_at else (expires_at - now) / 20
    return min(max(wait.total_seconds(), 60.0), 3600.0)

"""When a site begins to train: its hours, and its rounds of one day. It asks no clock: the time is an argument."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from common.errors import Reason
from common.ids import AssignmentId
from site_agent.domain.decision import ALLOWED, Decision
from site_agent.domain.policy import SitePolicy

Begun = Mapping[AssignmentId, datetime]


def judge_time(policy: SitePolicy, assignment_id: AssignmentId, begun: Begun, now: datetime) -> Decision:
    """Whether training may begin now; every no may change.

    Args:
        policy: The site's.
        assignment_id: Once begun, it may go on: it counts in no other day, and not twice.
        begun: When the site began which assignments to train.
        now: In the site's own time zone.
    """
    if assignment_id in begun:
        return ALLOWED
    minute = now.hour * 60 + now.minute
    if policy.hours and not any(hours.hold(minute) for hours in policy.hours):
        expected = ", ".join(str(hours) for hours in policy.hours)
        return _not_now(f"hours: expected {expected}, got {now:%H:%M}")
    today = sum(at.astimezone(now.tzinfo).date() == now.date() for at in begun.values())
    if policy.max_rounds_a_day and today >= policy.max_rounds_a_day:
        return _not_now(f"rounds a day: expected at most {policy.max_rounds_a_day}, got {today} begun today")
    return ALLOWED


def _not_now(detail: str) -> Decision:
    return Decision(reason=Reason.POLICY_HOURS, detail=detail, may_change=True)

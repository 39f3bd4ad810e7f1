"""When a site trains: its hours, and its rounds of one day. It asks no clock: the time is an argument."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from common.errors import Reason
from common.ids import AssignmentId
from site_agent.domain.decision import ALLOWED, Decision, first_no
from site_agent.domain.policy import SitePolicy

Begun = Mapping[AssignmentId, datetime]


def judge_begin(policy: SitePolicy, assignment_id: AssignmentId, begun: Begun, now: datetime) -> Decision:
    """Whether training may begin now; every no may change.

    Args:
        policy: The site's.
        assignment_id: Once begun, it counts in no other day, and not twice.
        begun: When the site began which assignments to train.
        now: In the site's own time zone.
    """
    return first_no(judge_hours(policy, now), _judge_day(policy, assignment_id, begun, now))


def judge_hours(policy: SitePolicy, now: datetime) -> Decision:
    """Whether this is a time to train, for what has begun, too; a no may change. ``now``: by the site's time zone."""
    minute = now.hour * 60 + now.minute
    if policy.hours and not any(hours.hold(minute) for hours in policy.hours):
        expected = ", ".join(str(hours) for hours in policy.hours)
        return _not_now(f"hours: expected {expected}, got {now:%H:%M}")
    return ALLOWED


def _judge_day(policy: SitePolicy, assignment_id: AssignmentId, begun: Begun, now: datetime) -> Decision:
    if assignment_id in begun:
        return ALLOWED
    today = sum(at.astimezone(now.tzinfo).date() == now.date() for at in begun.values())
    if policy.max_rounds_a_day and today >= policy.max_rounds_a_day:
        return _not_now(f"rounds a day: expected at most {policy.max_rounds_a_day}, got {today} begun today")
    return ALLOWED


def _not_now(detail: str) -> Decision:
    return Decision(reason=Reason.POLICY_HOURS, detail=detail, may_change=True)

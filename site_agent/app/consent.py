"""Whether this site takes part in a run: what its policy says, what a person said, and whether it is the time for it.

An assignment without a yes is held: it is neither joined nor fetched, and each poll tells the coordinator why. A person
decides through files (`Approvals`), so the agent looks there again and again, and needs no restart. Killed while it
holds one, it finds it in its journal and holds it again.
"""

from __future__ import annotations

from collections.abc import Callable

from common.errors import Reason
from site_agent.app.parts import Parts
from site_agent.app.ports import UnreadableVerdict
from site_agent.app.story import log_of
from site_agent.domain.assignment import Assignment
from site_agent.domain.assignment_machine import Event, EventKind
from site_agent.domain.decision import ALLOWED, Decision, first_no
from site_agent.domain.eligibility import judge, judge_signing
from site_agent.domain.times import judge_time

# Told why the assignment at hand is not begun yet; None once it may be.
Hold = Callable[[Reason | None], None]


async def await_consent(assignment: Assignment, parts: Parts, hold: Hold) -> Event:
    """Wait until the site may do ``assignment``, or may not; it may once somebody said so and the hours have come."""
    parts.approvals.show(assignment.terms, parts.now())
    held_for = None
    while (decision := _may_begin(assignment, parts)).may_change:
        if held_for is not decision.reason:
            held_for = decision.reason
            log_of(assignment).info("assignment_held", reason=str(held_for), terms_digest=assignment.terms.digest)
        hold(held_for)
        await parts.patience.sleep(parts.patience.look_seconds)
    hold(None)
    if decision.reason is not None:
        return Event(kind=EventKind.UNABLE, reason=decision.reason, detail=decision.detail)
    if assignment.kind == "train":
        parts.begun.begin(assignment.assignment_id, parts.now())
    return Event(kind=EventKind.ELIGIBLE)


def may_answer(assignment: Assignment, parts: Parts) -> Decision:
    """Whether an answer may leave still: a person may have taken the yes back, or the policy have become narrower."""
    return first_no(
        judge(assignment, parts.policy),
        judge_signing(assignment, has_signing_key=parts.signing_key is not None),
        _judge_approval(assignment, parts),
    )


def _may_begin(assignment: Assignment, parts: Parts) -> Decision:
    decision = may_answer(assignment, parts)
    if not decision.is_allowed or assignment.kind != "train":
        return decision
    return judge_time(parts.policy, assignment.assignment_id, parts.begun.begun(), parts.now())


def _judge_approval(assignment: Assignment, parts: Parts) -> Decision:
    """A person's no counts before a standing yes."""
    digest = assignment.terms.digest
    verdict = parts.approvals.verdict(digest)
    if isinstance(verdict, UnreadableVerdict):  # a standing yes does not outvote what may be a no
        return Decision(reason=Reason.APPROVAL_AWAITED, detail=verdict.detail, may_change=True)
    if verdict is not None and not verdict.is_approved:
        return Decision(reason=Reason.APPROVAL_DECLINED, detail=f"terms {digest}: declined by {verdict.by}")
    if verdict is not None or parts.policy.has_standing_approval:
        return ALLOWED
    detail = f"terms {digest}: expected an approval (fedmed-site review), got none yet"
    return Decision(reason=Reason.APPROVAL_AWAITED, detail=detail, may_change=True)

"""Whether this site takes part in a run: what its policy says, what a person said, and whether it is the time for it.

An assignment without a yes is held, and each poll tells the coordinator why: before it is begun it is neither joined
nor fetched; one that stands further on (begun by an agent that asked nobody, or past the hours) waits where it stands.
A person decides through files (`Approvals`), so the agent looks there again and again, and needs no restart. Killed
while it holds one, it finds it in its journal and holds it again.
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
from site_agent.domain.times import judge_begin, judge_hours

# Told why the assignment at hand waits; None once it may go on.
Hold = Callable[[Reason | None], None]


async def await_consent(assignment: Assignment, parts: Parts, hold: Hold) -> Event:
    """Wait until the site may begin ``assignment``, or may not."""
    decision = await await_verdict(assignment, parts, hold, _may_begin)
    if not decision.is_allowed:
        return unable(decision)
    if assignment.kind == "train":
        parts.begun.begin(assignment.assignment_id, parts.now())
    return Event(kind=EventKind.ELIGIBLE)


async def await_verdict(
    assignment: Assignment, parts: Parts, hold: Hold, ask: Callable[[Assignment, Parts], Decision]
) -> Decision:
    """Hold ``assignment`` while ``ask`` says a no that may change: somebody decides, or the hours come.

    Returns:
        The yes, or the no that lasts.
    """
    parts.approvals.show(assignment.terms, parts.now())
    held_for = None
    while (decision := ask(assignment, parts)).may_change:
        if held_for is not decision.reason:
            held_for = decision.reason
            log_of(assignment).info("assignment_held", reason=str(held_for), terms_digest=assignment.terms.digest)
        hold(held_for)
        await parts.patience.sleep(parts.patience.look_seconds)
    hold(None)
    return decision


def may_go_on(assignment: Assignment, parts: Parts) -> Decision:
    """Whether what has begun may go on now: within the policy, with a yes, and in the hours if it trains."""
    return first_no(may_answer(assignment, parts), may_work_now(assignment, parts))


def may_work_now(assignment: Assignment, parts: Parts) -> Decision:
    """What of that can change while the agent runs: what a person says, and the time."""
    hours = judge_hours(parts.policy, parts.now()) if assignment.kind == "train" else ALLOWED
    return first_no(_judge_approval(assignment, parts), hours)


def may_answer(assignment: Assignment, parts: Parts) -> Decision:
    """Whether an answer may leave still: a person may have taken the yes back, or the policy have become narrower."""
    return first_no(
        judge(assignment, parts.policy),
        judge_signing(assignment, has_signing_key=parts.signing_key is not None),
        _judge_approval(assignment, parts),
    )


def unable(decision: Decision) -> Event:
    """What a no that lasts means for the assignment."""
    assert decision.reason is not None, "a no has a reason"
    return Event(kind=EventKind.UNABLE, reason=decision.reason, detail=decision.detail)


def _may_begin(assignment: Assignment, parts: Parts) -> Decision:
    decision = may_answer(assignment, parts)
    if not decision.is_allowed or assignment.kind != "train":
        return decision
    return judge_begin(parts.policy, assignment.assignment_id, parts.begun.begun(), parts.now())


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

"""Carries one assignment to its end: ask for consent, fetch, train, answer. It holds no connection and reads no note.

The machine in `domain/` says what is due; here it is done, and what came of it is stored before the next thing begins.
Killed at any line and started again from the journal, it repeats at most the command at hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from functools import partial
from typing import assert_never

from common.errors import FedMedError, Reason
from common.logging import log_fault
from site_agent.app.answers import metric_names, reported_progress
from site_agent.app.consent import Hold, await_consent, await_verdict, may_go_on, may_work_now, unable
from site_agent.app.download import download_once
from site_agent.app.give_answer import give_answer
from site_agent.app.ordering import order_for
from site_agent.app.parts import Parts
from site_agent.app.ports import Entry, Result
from site_agent.app.retrying import keep_trying
from site_agent.app.story import log_of, tell_interruption, tell_result
from site_agent.domain.assignment import Assignment, TrainWork
from site_agent.domain.assignment_machine import Command, Event, EventKind, can_happen, commands_of, step
from site_agent.domain.egress import PROGRESS_METRICS, judge_metrics
from site_agent.orders import ADAPTER_FILE, OWN_FILE, PERSONAL_FILE, SIDE_FILE, Failure, Progress


async def perform_assignment(entry: Entry, parts: Parts, hold: Hold) -> None:
    """Go on from where ``entry`` stands until it has ended. Cancelled, it stops the trainer and leaves the journal.

    ``hold`` is told why the assignment may not be begun, or go on, now, and when it may.
    """
    commands = commands_of(entry.state)
    while commands:
        event = await _perform(commands[0], entry, parts, hold)
        state, commands = step(entry.state, event)
        entry = dataclasses.replace(entry, state=state)
        parts.record(entry)


async def _perform(command: Command, entry: Entry, parts: Parts, hold: Hold) -> Event:
    assignment = entry.assignment
    try:
        match command:
            case Command.JUDGE:
                return await await_consent(assignment, parts, hold)
            case Command.FETCH_ADAPTER:
                return await _fetch_adapter(assignment, parts, hold)
            case Command.RUN_TRAINER:
                return await _run_trainer(assignment, parts, hold)
            case Command.SEND_ANSWER:
                return await give_answer(assignment, parts, hold)
            case Command.SEND_DECLINE:
                return await _send_decline(entry, parts)
            case _:
                assert_never(command)
    except Exception as error:
        return _event_of(error, entry)


def _event_of(error: Exception, entry: Entry) -> Event:
    """What an error means for the assignment: the coordinator's no, or a fault of ours, which ends it too."""
    if isinstance(error, FedMedError) and not error.retryable and can_happen(entry.state, EventKind.REFUSED):
        return Event(kind=EventKind.REFUSED, reason=error.reason, detail=error.message)
    error_id = log_fault(log_of(entry.assignment), "assignment_failed", error)
    detail = f"a fault of the agent; its log has the cause under {error_id}"
    if can_happen(entry.state, EventKind.UNABLE):
        return Event(kind=EventKind.UNABLE, reason=Reason.TRAINER_CRASHED, detail=detail)
    return Event(kind=EventKind.REFUSED, reason=Reason.INTERNAL, detail=detail)


async def _fetch_adapter(assignment: Assignment, parts: Parts, hold: Hold) -> Event:
    may = await await_verdict(assignment, parts, hold, may_go_on)
    if not may.is_allowed:
        return unable(may)
    folder = parts.journal.folder(assignment.assignment_id)
    for adapter, name in ((assignment.adapter, ADAPTER_FILE), (assignment.side_adapter, SIDE_FILE)):
        if adapter is not None:
            call = partial(download_once, parts.coordinator, adapter, folder / name)
            await keep_trying(call, parts.patience, partial(tell_interruption, assignment, "download_interrupted"))
    return Event(kind=EventKind.FETCHED)


async def _run_trainer(assignment: Assignment, parts: Parts, hold: Hold) -> Event:
    """Let the trainer work whenever the site may go on, until it has ended."""
    while (may := await await_verdict(assignment, parts, hold, may_go_on)).is_allowed:
        outcome = await _train(assignment, parts)
        if isinstance(outcome, Failure):
            return Event(kind=EventKind.UNABLE, reason=Reason(outcome.reason), detail=outcome.detail)
        if outcome is not None:
            tell_result(assignment, outcome)
            return Event(kind=EventKind.TRAINED)
    return unable(may)


async def _train(assignment: Assignment, parts: Parts) -> Result | Failure | None:
    """What the trainer left; None when it was stopped, and may go on later."""
    folder = parts.journal.folder(assignment.assignment_id)
    terms, number = assignment.terms, assignment.round_number
    keeps_own = isinstance(assignment.work, TrainWork) and assignment.work.own is not None
    if keeps_own:
        await asyncio.to_thread(parts.personal.lay_out, terms, number, folder / OWN_FILE)
    outcome = await _while_allowed(assignment, parts)
    if keeps_own and outcome is not None and not isinstance(outcome, Failure):
        # before the journal says that it is trained: what is trained is not trained again
        await asyncio.to_thread(parts.personal.keep, terms, number, folder / PERSONAL_FILE)
    return outcome


async def _while_allowed(assignment: Assignment, parts: Parts) -> Result | Failure | None:
    """The trainer's work, which is stopped as soon as the site may not go on."""
    folder = parts.journal.folder(assignment.assignment_id)
    order = order_for(assignment, parts.local)
    work = asyncio.create_task(parts.trainer.perform(folder, order, partial(_relay, assignment, parts)))
    try:
        while not work.done() and (may := may_work_now(assignment, parts)).is_allowed:
            await asyncio.wait({work}, timeout=parts.patience.look_seconds)
        if not work.done():
            log_of(assignment).info("trainer_stopped", reason=str(may.reason))
        if not work.done() and may.may_change:  # what it has done will be wanted
            parts.trainer.ask_to_stop(folder)
            await asyncio.wait({work}, timeout=parts.patience.stop_seconds)
        return work.result() if work.done() else None
    finally:
        work.cancel()
        await asyncio.wait({work})


async def _relay(assignment: Assignment, parts: Parts, progress: Progress) -> None:
    """Tell how far the trainer is; a report that is lost, or may not leave, costs nothing."""
    parts.observer.trainer_progressed(progress)
    report = reported_progress(progress, parts.policy.egress)
    if judge_metrics(metric_names(report), PROGRESS_METRICS).is_allowed:
        with contextlib.suppress(FedMedError):
            await parts.coordinator.report_progress(assignment.assignment_id, report)


async def _send_decline(entry: Entry, parts: Parts) -> Event:
    reason = entry.state.reason
    assert reason is not None  # the machine lets no event without a reason lead to a decline
    call = partial(parts.coordinator.decline, entry.assignment.assignment_id, reason)
    await keep_trying(call, parts.patience, partial(tell_interruption, entry.assignment, "decline_interrupted"))
    return Event(kind=EventKind.DECLINE_HEARD)

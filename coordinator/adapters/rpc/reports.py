"""Runs, rosters and adapter versions as the operator's messages. Reads values; asks nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from common.ids import AssignmentId, SiteName, digest_of
from common.rpc_errors import reason_to_proto
from common.tls import Role
from common.wire import terms_to_proto
from coordinator.adapters.rpc.translate import STAGES, TASK_VALUES, adapter_ref, timestamp
from coordinator.app.answers import SiteProgress
from coordinator.app.ports import KnownSite, Traffic
from coordinator.app.publish_adapter import version_name
from coordinator.domain.assignments import Assignment, AssignmentKind
from coordinator.domain.enrolment import IssuedCertificate, Member, Standing
from coordinator.domain.holds import standing_holds
from coordinator.domain.values import (
    EvaluatorOutcome,
    F1Score,
    Hold,
    Phase,
    RosterEntry,
    Round,
    Run,
    RunState,
    Scores,
    SiteOutcome,
    TaskScores,
)
from fedmedlora.v1 import admin_pb2, registry_pb2, rounds_pb2

_RUN_STATES = {
    RunState.INITIALISING: admin_pb2.RUN_STATE_INITIALISING,
    RunState.RUNNING: admin_pb2.RUN_STATE_RUNNING,
    RunState.COMPLETED: admin_pb2.RUN_STATE_COMPLETED,
    RunState.FAILED: admin_pb2.RUN_STATE_FAILED,
    RunState.ABORTED: admin_pb2.RUN_STATE_ABORTED,
}
_PHASES = {
    Phase.SELECTING: admin_pb2.PHASE_SELECTING,
    Phase.TRAINING: admin_pb2.PHASE_TRAINING,
    Phase.SCORING: admin_pb2.PHASE_SCORING,
    Phase.AGGREGATING: admin_pb2.PHASE_AGGREGATING,
    Phase.EVALUATING: admin_pb2.PHASE_EVALUATING,
    Phase.COMMITTED: admin_pb2.PHASE_COMMITTED,
    Phase.REJECTED: admin_pb2.PHASE_REJECTED,
    Phase.FAILED: admin_pb2.PHASE_FAILED,
    Phase.ABORTED: admin_pb2.PHASE_ABORTED,
}
_OUTCOMES = {
    SiteOutcome.INVITED: admin_pb2.SITE_OUTCOME_INVITED,
    SiteOutcome.JOINED: admin_pb2.SITE_OUTCOME_JOINED,
    SiteOutcome.ACCEPTED: admin_pb2.SITE_OUTCOME_ACCEPTED,
    SiteOutcome.REFUSED: admin_pb2.SITE_OUTCOME_REFUSED,
    SiteOutcome.DECLINED: admin_pb2.SITE_OUTCOME_DECLINED,
    SiteOutcome.STRAGGLER: admin_pb2.SITE_OUTCOME_STRAGGLER,
}
_STANDINGS = {
    Standing.MEMBER: admin_pb2.STANDING_MEMBER,
    Standing.BANNED: admin_pb2.STANDING_BANNED,
    Standing.BANNED_WITHDRAWN: admin_pb2.STANDING_BANNED,
    Standing.WITHDRAWN: admin_pb2.STANDING_WITHDRAWN,
}
_STAGE_VALUES = {name: value for value, name in STAGES.items()}

ProgressOf = Callable[[AssignmentId], SiteProgress | None]
TrafficBySite = Mapping[tuple[int, SiteName], Traffic]
# How much of a message the rounds of a run, or its versions, may take: far below the largest message, 1 MiB, beside
# which terms with thousands of sites have room too.
MAX_LIST_BYTES = 256 * 1024

M = TypeVar("M", bound=Message)


def latest_that_fit(newest_first: Iterable[M]) -> list[M]:
    """As many as fit into MAX_LIST_BYTES, and one at least, oldest first."""
    kept: list[M] = []
    size_bytes = 0
    for message in newest_first:
        size_bytes += message.ByteSize()
        if kept and size_bytes > MAX_LIST_BYTES:
            break
        kept.append(message)
    return kept[::-1]


def summary(run: Run) -> admin_pb2.RunSummary:
    """A run in one line."""
    message = admin_pb2.RunSummary(
        run_id=run.run_id,
        name=run.terms.name,
        state=_RUN_STATES[run.state],
        round_number=len(run.rounds),
        rounds=run.terms.rounds.count,
        created_at=timestamp(run.created_at),
        is_paused=run.is_paused,
    )
    if run.reason is not None:
        message.reason = reason_to_proto(run.reason)
    return message


def run_report(
    run: Run, traffic: TrafficBySite, progress_of: ProgressOf, now: datetime, last_round: int = 0
) -> admin_pb2.RunReport:
    """A run with its rounds and rosters: those up to ``last_round`` (0: the latest) that fit."""
    rounds = run.rounds[: last_round or None]
    message = admin_pb2.RunReport(
        summary=summary(run),
        terms=terms_to_proto(run.terms),
        terms_digest=run.terms.digest,
        rounds=latest_that_fit(_round_report(run, past, traffic, (progress_of, now)) for past in reversed(rounds)),
        evaluator_outcomes=[_evaluator_outcome(each) for each in run.evaluator_outcomes],
        deadlines=open_deadlines(run),
        holds=[_hold(hold, held) for hold, held in standing_holds(run)],
    )
    if run.served is not None and run.spec is not None:
        message.served_adapter.CopyFrom(adapter_ref(run.served.adapter, run.spec_of(run.served.adapter)))
        message.served_version = run.served.version
        message.served_folder = f"registry/{run.terms.name}/{version_name(run.served.version)}"
    return message


def _hold(hold: Hold, held: Assignment) -> admin_pb2.Hold:
    role = Role.SITE if held.kind is AssignmentKind.TRAIN else Role.EVALUATOR
    return admin_pb2.Hold(agent=hold.agent, role=role, reason=reason_to_proto(hold.reason), since=timestamp(hold.since))


def open_deadlines(run: Run) -> list[admin_pb2.Deadline]:
    """What the run waits for now."""
    return [admin_pb2.Deadline(name=deadline.name, at=timestamp(deadline.at)) for deadline in run.open_deadlines]


def _round_report(
    run: Run, past: Round, traffic: TrafficBySite, live: tuple[ProgressOf, datetime]
) -> admin_pb2.RoundReport:
    progress_of, now = live
    message = admin_pb2.RoundReport(
        round_number=past.number,
        phase=_PHASES[past.phase],
        roster=[_roster_entry(entry, traffic.get((past.number, entry.site)), progress_of) for entry in past.roster],
        opened_at=timestamp(past.opened_at),
        is_subset=past.is_subset,
        duration=_duration((past.closed_at or now) - past.opened_at),
        is_unscored=past.is_unscored,
        is_weighed_by_size=past.is_weighed_by_size,
        is_partial=past.is_partial,
        evaluator_outcomes=[_evaluator_outcome(each) for each in past.evaluator_outcomes],
    )
    if past.reason is not None:
        message.reason = reason_to_proto(past.reason)
    if past.scores is not None:
        message.scores.CopyFrom(_scores(past.scores))
    if past.candidate is not None and run.spec is not None:
        message.candidate.CopyFrom(adapter_ref(past.candidate, run.spec_of(past.candidate)))
    if past.closed_at is not None:
        message.closed_at.CopyFrom(timestamp(past.closed_at))
    return message


def _roster_entry(entry: RosterEntry, traffic: Traffic | None, progress_of: ProgressOf) -> admin_pb2.RosterEntry:
    message = admin_pb2.RosterEntry(
        site=entry.site, outcome=_OUTCOMES[entry.outcome], weight=entry.weight, lora_rank=entry.lora_rank or 0
    )
    if entry.reason is not None:
        message.reason = reason_to_proto(entry.reason)
    if entry.update is not None:
        message.num_examples = entry.update.num_examples
        message.num_label_tokens = entry.update.num_label_tokens
        message.task_counts.extend(
            rounds_pb2.TaskCounts(
                task=TASK_VALUES[each.task], num_examples=each.num_examples, num_label_tokens=each.num_label_tokens
            )
            for each in entry.update.tasks
        )
    if entry.scores is not None:
        message.validation_loss = entry.scores.mean_loss
        message.task_scores.extend(_task_scores(each) for each in entry.scores.tasks)
    if traffic is not None:
        message.upload_bytes = traffic.upload_bytes
        message.download_bytes = traffic.download_bytes
    progress = progress_of(entry.assignment_id) if entry.outcome.is_open else None
    if progress is not None:
        message.progress.CopyFrom(_progress(progress))
    return message


def _evaluator_outcome(each: EvaluatorOutcome) -> admin_pb2.EvaluatorOutcome:
    return admin_pb2.EvaluatorOutcome(
        evaluator=each.evaluator, outcome=_OUTCOMES[each.outcome], reason=reason_to_proto(each.reason)
    )


def _progress(progress: SiteProgress) -> admin_pb2.SiteProgress:
    return admin_pb2.SiteProgress(
        stage=_STAGE_VALUES[progress.stage],
        step=progress.step,
        steps=progress.steps,
        loss=progress.loss,
        tokens_per_second=progress.tokens_per_second,
    )


def _scores(scores: Scores) -> rounds_pb2.EvaluationScores:
    return rounds_pb2.EvaluationScores(
        mean_loss=scores.mean_loss,
        num_examples=scores.num_examples,
        num_label_tokens=scores.num_label_tokens,
        strict=_f1(scores.strict),
        lenient=_f1(scores.lenient),
        duration=_duration(timedelta(seconds=scores.duration_seconds)),
        tasks=[_task_scores(each) for each in scores.tasks],
        data_digest=scores.data_digest,
    )


def _task_scores(scores: TaskScores) -> rounds_pb2.TaskScores:
    return rounds_pb2.TaskScores(
        task=TASK_VALUES[scores.task],
        mean_loss=scores.mean_loss,
        num_examples=scores.num_examples,
        num_label_tokens=scores.num_label_tokens,
        strict=_f1(scores.strict),
        lenient=_f1(scores.lenient),
    )


def _f1(score: F1Score | None) -> rounds_pb2.F1Counts | None:
    if score is None:
        return None
    return rounds_pb2.F1Counts(true_positives=score.true_positives, predicted=score.predicted, gold=score.gold)


def _duration(value: timedelta) -> Duration:
    duration = Duration()
    duration.FromTimedelta(value)
    return duration


def adapter_versions(run: Run) -> list[registry_pb2.AdapterVersion]:
    """The latest adapters that came out of the run, the first one too, oldest first; the last promoted in any case."""
    if run.spec is None or run.first_adapter is None:
        return []
    first = registry_pb2.AdapterVersion(
        version=0, adapter=adapter_ref(run.first_adapter, run.spec), published_at=timestamp(run.created_at)
    )
    versions = [first]
    for past in run.rounds:
        if past.candidate is None or past.phase not in (Phase.COMMITTED, Phase.REJECTED) or past.closed_at is None:
            continue
        versions.append(
            registry_pb2.AdapterVersion(
                version=past.number,
                adapter=adapter_ref(past.candidate, run.spec_of(past.candidate)),
                parent_digest=past.global_adapter.digest,
                is_promoted=past.is_promoted,
                contributors=[entry.site for entry in past.accepted],
                published_at=timestamp(past.closed_at),
            )
        )
    latest = latest_that_fit(reversed(versions))
    if not any(version.is_promoted for version in latest):
        latest[:0] = [version for version in versions if version.is_promoted][-1:]
    return latest


def site(
    name: SiteName, seen: KnownSite | None, member: Member | None, certificates: Iterable[IssuedCertificate]
) -> admin_pb2.Site:
    """One site, heard of or a member or both; of ``certificates`` those that are its own."""
    role = member.role if member is not None and member.role is not None else seen.role if seen is not None else ""
    message = admin_pb2.Site(name=name, role=role, standing=_STANDINGS[member.standing if member else Standing.MEMBER])
    if seen is not None:
        message.last_seen_at.CopyFrom(timestamp(seen.last_seen_at))
    if member is not None and member.enrolled_at is not None:
        message.enrolled_at.CopyFrom(timestamp(member.enrolled_at))
    if member is not None and member.signing_public_key:
        message.signing_key_fingerprint = digest_of(bytes.fromhex(member.signing_public_key))
    for each in certificates:
        if each.name == name:
            message.certificates.append(_certificate(each))
    return message


def _certificate(issued: IssuedCertificate) -> admin_pb2.Certificate:
    message = admin_pb2.Certificate(serial=issued.serial, expires_at=timestamp(issued.expires_at))
    if issued.revoked_at is not None:
        message.revoked_at.CopyFrom(timestamp(issued.revoked_at))
    return message

"""Runs, rosters and sites as text for a terminal. Reads messages; asks nothing."""

from __future__ import annotations

from collections import Counter

from google.protobuf.timestamp_pb2 import Timestamp
from rich.box import SIMPLE_HEAD
from rich.console import Group
from rich.table import Table

from common.errors import InputInvalidError
from common.rpc_errors import reason_from_proto
from fedmedlora.v1 import admin_pb2, errors_pb2, rounds_pb2, types_pb2

_CLOSED_PHASES = {
    admin_pb2.PHASE_COMMITTED,
    admin_pb2.PHASE_REJECTED,
    admin_pb2.PHASE_FAILED,
    admin_pb2.PHASE_ABORTED,
}


def enum_word(enum: object, value: int) -> str:
    """The last part of an enum value's name in lower case: ``PHASE_TRAINING`` is ``training``; else its number."""
    values = enum.DESCRIPTOR.values_by_number  # type: ignore[attr-defined]
    if value not in values:  # of a newer coordinator
        return str(value)
    name: str = values[value].name
    prefix = enum.DESCRIPTOR.values[0].name.removesuffix("UNSPECIFIED")  # type: ignore[attr-defined]
    return name.removeprefix(prefix).lower()


def phase(value: int) -> str:
    """A phase in one word."""
    return enum_word(admin_pb2.Phase, value)


def state(value: int) -> str:
    """A run's state in one word."""
    return enum_word(admin_pb2.RunState, value)


def outcome(value: int) -> str:
    """A site's outcome in one word."""
    return enum_word(admin_pb2.SiteOutcome, value)


def reason(value: errors_pb2.Reason.ValueType) -> str:
    """A reason's name; empty for none, and its number when a newer coordinator gave it."""
    if value == errors_pb2.REASON_UNSPECIFIED:
        return ""
    try:
        return str(reason_from_proto(value))
    except InputInvalidError:
        return f"reason {value}"


def deadline(value: admin_pb2.Deadline) -> str:
    """What a run waits for, and until when."""
    return f"{value.name} at {value.at.ToDatetime():%Y-%m-%d %H:%M:%S} UTC"


def bytes_text(count: int) -> str:
    """A count of bytes for people: decimal megabytes."""
    return f"{count / 1e6:.2f} MB" if count else ""


def runs_table(runs: list[admin_pb2.RunSummary]) -> Table:
    """One line a run."""
    table = Table("run", "id", "state", "round", "created (UTC)", "reason")
    for run in runs:
        created = run.created_at.ToDatetime().strftime("%Y-%m-%d %H:%M")
        rounds = f"{run.round_number}/{run.rounds}"
        where = f"{state(run.state)}, paused" if run.is_paused else state(run.state)
        table.add_row(run.name, run.run_id[:12], where, rounds, created, reason(run.reason))
    return table


def sites_table(sites: list[admin_pb2.Site]) -> Table:
    """One line a site."""
    table = Table("site", "role", "standing", "present", "last seen (UTC)", "certificate until (UTC)")
    for site in sites:
        seen = moment(site.last_seen_at) if site.HasField("last_seen_at") else ""
        until = next((moment(each.expires_at) for each in site.certificates if not each.HasField("revoked_at")), "")
        table.add_row(site.name, site.role, standing(site.standing), "yes" if site.is_present else "no", seen, until)
    return table


def site_page(site: admin_pb2.Site) -> Group:
    """One site, with its certificates."""
    lines = [f"{site.name}: {site.role}, {standing(site.standing)}, {'present' if site.is_present else 'absent'}"]
    if site.HasField("enrolled_at"):
        lines.append(f"enrolled {moment(site.enrolled_at)} UTC")
    if site.signing_key_fingerprint:
        revoked = ", which is revoked" if site.is_signing_key_revoked else ""
        lines.append(f"signs updates with the key {site.signing_key_fingerprint}{revoked}")
    for each in site.certificates:  # lines, not a table: a serial is copied, so it must not be broken
        revoked = f", revoked {moment(each.revoked_at)}" if each.HasField("revoked_at") else ""
        lines.append(f"certificate {each.serial} until {moment(each.expires_at)}{revoked}")
    return Group(*lines)


def standing(value: int) -> str:
    """A site's standing in a word."""
    return enum_word(admin_pb2.Standing, value)


def moment(at: Timestamp) -> str:
    """A point in time, UTC."""
    return at.ToDatetime().strftime("%Y-%m-%d %H:%M:%S")


def round_table(report: admin_pb2.RoundReport) -> Table:
    """A round's roster; a column that holds nothing (yet) is left out."""
    title = f"round {report.round_number}: {phase(report.phase)} {reason(report.reason)}".strip()
    if report.is_subset and report.candidate.digest:
        title += " (a subset of the sites invited)"
    if report.is_weighed_by_size:
        title += " (weighed by size alone: not every update was scored)"
    if report.is_partial:
        title += " (part of each adapter stays at its site: nothing to promote)"
    columns = {
        "rank": [str(entry.lora_rank or "") for entry in report.roster],
        "outcome": [outcome(entry.outcome) for entry in report.roster],
        "reason": [reason(entry.reason) for entry in report.roster],
        "examples": [str(entry.num_examples or "") for entry in report.roster],
        "label tokens": [str(entry.num_label_tokens or "") for entry in report.roster],
        "loss": [
            f"{entry.validation_loss:.4f}" if entry.HasField("validation_loss") else "" for entry in report.roster
        ],
        **task_losses(report),
        "weight": [weight(entry, is_known=bool(report.candidate.digest)) for entry in report.roster],
        "up": [bytes_text(entry.upload_bytes) for entry in report.roster],
        "down": [bytes_text(entry.download_bytes) for entry in report.roster],
        "now": [progress(entry) for entry in report.roster],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("site", *shown):
        table.add_column(name, no_wrap=name == "site")
    for number, entry in enumerate(report.roster):
        table.add_row(entry.site, *(cells[number] for cells in shown.values()))
    return table


def task_losses(report: admin_pb2.RoundReport) -> dict[str, list[str]]:
    """A column for the loss in each task; of a round with one task there is none, for the loss is that."""
    losses = [{each.task: f"{each.mean_loss:.4f}" for each in entry.task_scores} for entry in report.roster]
    tasks = sorted({task for each in losses for task in each})
    columns = {f"{enum_word(types_pb2.Task, task)} loss": [each.get(task, "") for each in losses] for task in tasks}
    return columns if len(tasks) > 1 else {}


def weight(entry: admin_pb2.RosterEntry, *, is_known: bool) -> str:
    """An accepted update's weight once it is known, 0 too: a strategy may leave one out."""
    is_in = is_known and entry.outcome == admin_pb2.SITE_OUTCOME_ACCEPTED
    return f"{entry.weight:.4f}" if is_in or entry.weight else ""


def progress(entry: admin_pb2.RosterEntry) -> str:
    """What the site's trainer is doing; empty when it is not heard of."""
    if not entry.HasField("progress"):
        return ""
    stage = enum_word(rounds_pb2.TrainerStage, entry.progress.stage)
    loss = f", loss {entry.progress.loss:.3f}" if entry.progress.HasField("loss") else ""
    return f"{stage} {entry.progress.step}/{entry.progress.steps}{loss}"


def story(report: admin_pb2.RunReport) -> list[str]:
    """The run so far, a line for each round, evaluator's no and the run; it changes when a phase or state does."""
    rounds = evaluators(report)
    for past in report.rounds:
        rounds += [*(f"round {past.round_number}: {no}" for no in evaluators(past)), _round_line(past)]
    run = f"run {report.summary.name}: {state(report.summary.state)} {reason(report.summary.reason)}".strip()
    is_open = report.summary.state in (admin_pb2.RUN_STATE_INITIALISING, admin_pb2.RUN_STATE_RUNNING)
    return [run, *rounds] if is_open else [*rounds, run]


def evaluators(report: admin_pb2.RunReport | admin_pb2.RoundReport) -> list[str]:
    """Evaluators that will not make the first adapter (of a run), or score the candidate (of a round), and why."""
    return [f"evaluator {no.evaluator} {outcome(no.outcome)}: {reason(no.reason)}" for no in report.evaluator_outcomes]


def holds(report: admin_pb2.RunReport) -> list[str]:
    """Agents that may not go on now, why, and since when."""
    return [
        f"{hold.role} {hold.agent} waits: {reason(hold.reason)} since {moment(hold.since)} UTC" for hold in report.holds
    ]


def rounds_left_out(report: admin_pb2.RunReport) -> list[str]:
    """One line that says which rounds are here, and how to see the earlier ones; none when nothing is missing."""
    if not report.rounds or (report.rounds[0].round_number, len(report.rounds)) == (1, report.summary.round_number):
        return []
    first, last = report.rounds[0].round_number, report.rounds[-1].round_number
    line = f"rounds {first} to {last} of {report.summary.round_number}"
    return [f"{line}; earlier ones: run show --last-round {first - 1}" if first > 1 else line]


def _round_line(report: admin_pb2.RoundReport) -> str:
    line = f"round {report.round_number}: {phase(report.phase)}"
    if report.phase not in _CLOSED_PHASES:
        return line
    outcomes = Counter(outcome(entry.outcome) for entry in report.roster)
    counted = ", ".join(f"{count} {name}" for name, count in outcomes.items())
    parts = [
        f"in {report.duration.ToTimedelta().total_seconds():.0f} s",
        counted,
        reason(report.reason),
        "weighed by size alone" if report.is_weighed_by_size else "",
        "part of each adapter stays at its site" if report.is_partial else "",
        scores(report),
    ]
    return f"{line} {', '.join(filter(None, parts))}"


def scores(report: admin_pb2.RoundReport) -> str:
    """The candidate's scores in one line, or that it is served without any; empty before that is known."""
    if report.is_unscored:
        return "promoted unscored"
    if not report.HasField("scores"):
        return ""
    parts = [f"loss {report.scores.mean_loss:.4f}"]
    for name in ("strict", "lenient"):
        if report.scores.HasField(name):
            parts.append(f"{name} F1 {f1(getattr(report.scores, name)):.3f}")
    for task in report.scores.tasks if len(report.scores.tasks) > 1 else ():
        parts.append(f"{enum_word(types_pb2.Task, task.task)}: loss {task.mean_loss:.4f}")
        is_new = task.task != types_pb2.TASK_ENTITIES  # whose F1 stands above
        parts += [
            f"{name} F1 {f1(getattr(task, name)):.3f}"
            for name in ("strict", "lenient")
            if is_new and task.HasField(name)
        ]
    return ", ".join(parts)


def f1(counts: rounds_pb2.F1Counts) -> float:
    """F1 = 2 tp / (predicted + gold), and 0 when both are 0, as in nervaluate."""
    total = counts.predicted + counts.gold
    return 2 * counts.true_positives / total if total else 0.0

"""Tells the story of every run, step by step, to the log and to the metrics. Decides nothing."""

from __future__ import annotations

from structlog.typing import FilteringBoundLogger

from common.logging import log_fault
from coordinator.adapters.metrics import CoordinatorMetrics
from coordinator.domain import events as ev
from coordinator.domain.commands import Command
from coordinator.domain.values import EvaluatorOutcome, RosterEntry, Round, Run, Scores


class Story:
    """Implements `coordinator.app.ports.RunObserver`: INFO alone reads as the story of a round."""

    def __init__(self, log: FilteringBoundLogger, metrics: CoordinatorMetrics) -> None:
        self._log = log
        self._metrics = metrics

    def run_moved(self, before: Run | None, after: Run, event: ev.RunEvent | None) -> None:
        """Say what is new in ``after``."""
        if before is None:
            self._log.info(
                "run_created", run_name=after.terms.name, run_id=after.run_id, terms_digest=after.terms.digest
            )
            return
        for each in after.evaluator_outcomes[len(before.evaluator_outcomes) :]:
            self._tell_evaluator(after, 0, each)
        known = {past.number: past for past in before.rounds}
        for past in after.rounds:
            if known.get(past.number) != past:
                self._tell_round(after, known.get(past.number), past)
        if isinstance(event, ev.TimeLost):
            self._log.info("time_lost", run_name=after.terms.name, seconds=round(event.lost.total_seconds(), 3))
        if isinstance(event, ev.ExtensionRequested):
            self._log.info("run_extended", run_name=after.terms.name)
        if before.is_paused is not after.is_paused:
            self._log.info("run_paused" if after.is_paused else "run_resumed", run_name=after.terms.name)
        if before.state is not after.state:
            self._log.info("run_state", run_name=after.terms.name, run_state=after.state, reason=after.reason)

    def _tell_round(self, run: Run, before: Round | None, after: Round) -> None:
        old_entries = {entry.site: entry for entry in before.roster} if before else {}
        for entry in after.roster:
            old = old_entries.get(entry.site)
            if old is None or (old.outcome, old.reason) != (entry.outcome, entry.reason):
                self._tell_entry(run, after, entry)
            if entry.scores is not None and (old is None or old.scores is None):
                self._tell_score(run, after, entry, entry.scores)
        for each in after.evaluator_outcomes[len(before.evaluator_outcomes) if before else 0 :]:
            self._tell_evaluator(run, after.number, each)
        if before is None or before.phase is not after.phase:
            self._tell_phase(run, after)
        if after.candidate is not None and (before is None or before.candidate is None):
            self._tell_weights(run, after)

    def _tell_entry(self, run: Run, current: Round, entry: RosterEntry) -> None:
        self._log.info(
            "site_outcome",
            run_name=run.terms.name,
            round_number=current.number,
            site=entry.site,
            outcome=entry.outcome,
            reason=entry.reason,
            num_examples=entry.update.num_examples if entry.update else None,
        )
        if not entry.outcome.is_open:  # whose reason does not change any more
            self._metrics.site_answered(entry.outcome)

    def _tell_score(self, run: Run, current: Round, entry: RosterEntry, scores: Scores) -> None:
        self._log.info(
            "update_scored",
            run_name=run.terms.name,
            round_number=current.number,
            site=entry.site,
            loss=round(scores.mean_loss, 6),
        )

    def _tell_evaluator(self, run: Run, round_number: int, each: EvaluatorOutcome) -> None:
        self._log.info(
            "evaluator_outcome",
            run_name=run.terms.name,
            round_number=round_number,
            site=each.evaluator,
            outcome=each.outcome,
            reason=each.reason,
        )

    def _tell_phase(self, run: Run, current: Round) -> None:
        self._log.info(
            "round_phase",
            run_name=run.terms.name,
            round_number=current.number,
            phase=current.phase,
            reason=current.reason,
            updates=len(current.accepted),
            sites=len(current.roster),
            is_subset=current.is_subset,
            is_unscored=current.is_unscored,
            is_weighed_by_size=current.is_weighed_by_size,
        )
        if not current.phase.is_open and current.closed_at is not None:
            seconds = (current.closed_at - current.opened_at).total_seconds()
            self._metrics.round_closed(current.phase, seconds)

    def _tell_weights(self, run: Run, current: Round) -> None:
        for entry in current.accepted:
            self._log.info(
                "site_weight",
                run_name=run.terms.name,
                round_number=current.number,
                site=entry.site,
                weight=round(entry.weight, 6),
            )

    def command_failed(self, command: Command, error: Exception) -> None:
        """Say that a command will be tried again, and what kind of error it met."""
        log_fault(self._log, "command_failed", error, command_id=command.command_id)

    def watch_failed(self, error: Exception) -> None:
        """Say that deadlines will be looked at again, and what kind of error it met."""
        log_fault(self._log, "watch_failed", error)

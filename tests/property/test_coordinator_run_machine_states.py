"""Whatever happens to a run, in whatever order and however often: what must stay true."""

from __future__ import annotations

from datetime import datetime, timedelta

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from common.errors import Reason
from common.ids import AssignmentId, SiteName, derived_id
from common.terms import AggregationTerms, GateMetric, GateTerms, OnEvaluatorAbsent, OnRejection, RoundTerms
from coordinator.domain import assignments, run_machine
from coordinator.domain import events as ev
from coordinator.domain.cohort import evaluate_assignment_id, initialise_assignment_id, score_assignment_id
from coordinator.domain.commands import CommandKind
from coordinator.domain.values import AdapterFile, DeadlineName, Phase, Round, Run, RunState, SiteOutcome
from tests.fakes.coordinator_rounds import PLUS_AGGREGATION
from tests.fakes.coordinator_values import (
    EVALUATOR,
    RUN_ID,
    SITES,
    at,
    digest,
    make_round_terms,
    make_scores,
    make_spec,
    make_terms,
    make_update,
    train_id,
)

# The diagram at the top of `coordinator.domain.round_machine`, as a table.
LEGAL_PHASES: dict[Phase, frozenset[Phase]] = {
    Phase.SELECTING: frozenset({Phase.TRAINING, Phase.ABORTED}),
    Phase.TRAINING: frozenset({Phase.SCORING, Phase.AGGREGATING, Phase.FAILED, Phase.ABORTED}),
    Phase.SCORING: frozenset({Phase.AGGREGATING, Phase.FAILED, Phase.ABORTED}),
    Phase.AGGREGATING: frozenset({Phase.EVALUATING, Phase.COMMITTED, Phase.FAILED, Phase.ABORTED}),
    Phase.EVALUATING: frozenset({Phase.COMMITTED, Phase.REJECTED, Phase.FAILED, Phase.ABORTED}),
}
LEGAL_STATES: dict[RunState, frozenset[RunState]] = {
    RunState.INITIALISING: frozenset({RunState.RUNNING, RunState.FAILED, RunState.ABORTED}),
    RunState.RUNNING: frozenset({RunState.COMPLETED, RunState.FAILED, RunState.ABORTED}),
}
# Which commands a change of a round's phase asks for; every other step asks for none.
COMMANDS_OF_ENTERING: dict[Phase, list[CommandKind]] = {
    Phase.AGGREGATING: [CommandKind.AGGREGATE],
    Phase.COMMITTED: [CommandKind.PUBLISH, CommandKind.DELETE_UPDATES],
    Phase.REJECTED: [CommandKind.PUBLISH, CommandKind.DELETE_UPDATES],
    Phase.FAILED: [CommandKind.DELETE_UPDATES],
    Phase.ABORTED: [CommandKind.DELETE_UPDATES],
}

GATES = st.builds(
    GateTerms,
    metric=st.sampled_from(GateMetric),
    on_rejection=st.sampled_from(OnRejection),
    on_evaluator_absent=st.sampled_from(OnEvaluatorAbsent),
)
ROUNDS: st.SearchStrategy[RoundTerms] = st.builds(
    make_round_terms,
    count=st.integers(2, 4),
    quorum=st.integers(1, 3),
    sites=st.sampled_from([SITES, ()]),
)
AGGREGATIONS = st.sampled_from([AggregationTerms(), PLUS_AGGREGATION])
NUMBERS = st.integers(1, 4)
STEPS_OF_TIME = st.floats(0, 2000)


class AnyRun(RuleBasedStateMachine):
    """Events of every kind, most of them out of place, duplicates included; the checks are in ``happen``."""

    def __init__(self) -> None:
        super().__init__()
        self.run: Run
        self.seconds = 0.0
        self.command_ids: set[str] = set()
        self.accepted_updates: dict[AssignmentId, AdapterFile] = {}
        self.published: set[int] = set()

    @initialize(gate=GATES, rounds=ROUNDS, aggregation=AGGREGATIONS, progress=st.integers(0, 10))
    def create(self, gate: GateTerms, rounds: RoundTerms, aggregation: AggregationTerms, progress: int) -> None:
        terms = make_terms(gate=gate, rounds=rounds, aggregation=aggregation)
        self.run = run_machine.create_run(RUN_ID, terms, at(0))
        self.go_on(progress, f1_tenths=5)

    @rule(times=st.integers(1, 6), f1_tenths=st.integers(0, 10))
    def go_on(self, times: int, f1_tenths: int) -> None:
        """Do what the run waits for, so that late phases and rounds are reached often."""
        for _ in range(times):
            current = self.run.current
            if self.run.rounds and current is None:
                self.publish(len(self.run.rounds))
            elif current is None:
                self.first_adapter("one")
            elif current.phase is Phase.SELECTING:
                self.hold(is_held=False)
                self.everyone_comes()
            elif current.phase is Phase.TRAINING:
                self.accept_now(current.awaited[0].site, 0)
            elif current.phase is Phase.SCORING:
                self.score_update(current.unscored[0].site, current.number, 1.0)
            elif current.phase is Phase.AGGREGATING:
                self.combine(current.number)
            else:
                self.score(current.number, f1_tenths, 1.0)

    @rule(present=st.frozensets(st.sampled_from(SITES)), step=STEPS_OF_TIME)
    def presence(self, present: frozenset[SiteName], step: float) -> None:
        self.see(present, step)

    @rule()
    def everyone_comes(self) -> None:
        self.see(frozenset(SITES), 1)

    @rule(what=st.sampled_from(["one", "two"]))
    def first_adapter(self, what: str) -> None:
        adapter = AdapterFile(digest=digest(what), size_bytes=10)
        self.happen(ev.FirstAdapterReceived(at=self.later(1), adapter=adapter, spec=make_spec()))

    @rule(site=st.sampled_from(SITES), number=NUMBERS)
    def take(self, site: SiteName, number: int) -> None:
        self.happen(ev.AssignmentTaken(at=self.later(1), assignment_id=train_id(site, number)))

    @rule(site=st.sampled_from(SITES), what=st.integers(0, 9))
    def accept_now(self, site: SiteName, what: int) -> None:
        self.accept(site, len(self.run.rounds), what)

    @rule(site=st.sampled_from(SITES), number=NUMBERS, what=st.integers(0, 9))
    def accept(self, site: SiteName, number: int, what: int) -> None:
        event = ev.UpdateAccepted(
            at=self.later(1), assignment_id=train_id(site, number), update=make_update(f"{site} {number} {what}")
        )
        self.happen(event)
        if number == len(self.run.rounds) and self.update_of(event.assignment_id) == event.update.file:
            self.accepted_updates.setdefault(event.assignment_id, event.update.file)

    @rule(site=st.sampled_from(SITES), number=NUMBERS)
    def refuse(self, site: SiteName, number: int) -> None:
        wanted = train_id(site, number)
        self.refuse_as(site, wanted)

    @rule(site=st.sampled_from(SITES), number=NUMBERS)
    def decline(self, site: SiteName, number: int) -> None:
        self.decline_as(site, train_id(site, number))

    @rule(evaluator=st.sampled_from([EVALUATOR, SiteName("other")]), number=NUMBERS)
    def evaluator_declines(self, evaluator: SiteName, number: int) -> None:
        self.decline_as(evaluator, evaluate_assignment_id(RUN_ID, number, evaluator))
        self.decline_as(evaluator, initialise_assignment_id(RUN_ID, evaluator))

    @rule(evaluator=st.sampled_from([EVALUATOR, SiteName("other")]), number=NUMBERS)
    def evaluator_is_refused(self, evaluator: SiteName, number: int) -> None:
        self.refuse_as(evaluator, evaluate_assignment_id(RUN_ID, number, evaluator))
        self.refuse_as(evaluator, initialise_assignment_id(RUN_ID, evaluator))

    @rule(number=NUMBERS)
    def publish(self, number: int) -> None:
        if number <= len(self.run.rounds) and not self.run.rounds[number - 1].phase.is_open:
            self.published.add(number)
        self.happen(ev.Published(at=self.later(1), round_number=number))

    @rule()
    def a_stranger_declines(self) -> None:
        self.decline_as(SITES[0], AssignmentId(derived_id("no such assignment")))

    @rule(number=NUMBERS)
    def combine(self, number: int) -> None:
        current = self.run.current
        entries = current.accepted if current is not None and current.number == number else ()
        weights = tuple((entry.site, 1 / len(entries)) for entry in entries)
        candidate = AdapterFile(digest=digest(f"candidate {number}"), size_bytes=10)
        self.happen(
            ev.CandidateReady(at=self.later(1), round_number=number, candidate=candidate, weights=weights),
        )

    @rule(number=st.integers(2, 4))
    def fail_to_combine(self, number: int) -> None:
        reason = Reason.AGGREGATION_FAILED
        self.happen(ev.AggregationFailed(at=self.later(1), round_number=number, reason=reason))

    @rule(number=NUMBERS, f1_tenths=st.integers(0, 10), mean_loss=st.floats(0, 9))
    def score(self, number: int, f1_tenths: int, mean_loss: float) -> None:
        scores = make_scores(f1_tenths, mean_loss)
        self.happen(ev.ScoresReported(at=self.later(1), round_number=number, scores=scores))

    @rule(site=st.sampled_from(SITES), number=NUMBERS, mean_loss=st.floats(0, 9))
    def score_update(self, site: SiteName, number: int, mean_loss: float) -> None:
        scores = make_scores(5, mean_loss)
        self.happen(ev.UpdateScored(at=self.later(1), round_number=number, site=site, scores=scores))

    @rule(site=st.sampled_from(SITES), number=NUMBERS, reason=st.sampled_from(Reason))
    def scoring_is_declined(self, site: SiteName, number: int, reason: Reason) -> None:
        wanted = score_assignment_id(RUN_ID, number, EVALUATOR, site)
        self.happen(ev.AssignmentDeclined(at=self.later(1), assignment_id=wanted, by=EVALUATOR, reason=reason))

    @rule(name=st.sampled_from(DeadlineName), step=STEPS_OF_TIME, is_due=st.sampled_from([True, False, False, False]))
    def deadline(self, name: DeadlineName, step: float, is_due: bool) -> None:
        if is_due:  # not more often: most deadlines end the run
            self.happen(ev.DeadlinePassed(at=self.later(step), name=name))

    @precondition(lambda self: len(self.run.rounds) > 2)
    @rule()
    def abort(self) -> None:
        self.happen(ev.AbortRequested(at=self.later(1)))

    @rule(is_held=st.booleans())
    def hold(self, is_held: bool) -> None:
        now = self.later(1)
        self.happen(ev.PauseRequested(at=now) if is_held else ev.ResumeRequested(at=now))

    @rule(lost=st.floats(-4000, 4000))
    def lose_time(self, lost: float) -> None:
        self.happen(ev.TimeLost(at=self.later(1), lost=timedelta(seconds=lost)))

    @rule(step=STEPS_OF_TIME)
    def extend(self, step: float) -> None:
        now = self.later(1)
        self.happen(ev.ExtensionRequested(at=now, not_before=now + timedelta(seconds=step)))

    def later(self, seconds: float) -> datetime:
        self.seconds += seconds
        return at(self.seconds)

    def decline_as(self, who: SiteName, wanted: AssignmentId) -> None:
        self.happen(ev.AssignmentDeclined(at=self.later(1), assignment_id=wanted, by=who, reason=Reason.OUT_OF_MEMORY))

    def refuse_as(self, who: SiteName, wanted: AssignmentId) -> None:
        self.happen(ev.AnswerRefused(at=self.later(1), assignment_id=wanted, by=who, reason=Reason.UPDATE_NOT_FINITE))

    def see(self, present: frozenset[SiteName], step: float) -> None:
        known = frozenset({EVALUATOR, SiteName("other")})
        self.happen(
            ev.PresenceObserved(at=self.later(step), present=present, enrolled=frozenset(SITES), evaluators=known)
        )

    def update_of(self, assignment_id: AssignmentId) -> AdapterFile | None:
        for entry in (entry for past in self.run.rounds for entry in past.roster):
            if entry.assignment_id == assignment_id and entry.update is not None:
                return entry.update.file
        return None

    def happen(self, event: ev.RunEvent) -> None:
        """Step by ``event``, and check everything that a single step must keep."""
        before = self.run
        after, commands = run_machine.step(before, event)
        assert (after, commands) == run_machine.step(before, event), "a step is a function"
        assert after.state is before.state or after.state in LEGAL_STATES[before.state]
        assert after.rounds[: len(before.rounds) - 1] == before.rounds[:-1], "only the last round moves"
        is_started = before.state is RunState.INITIALISING and after.state is not before.state
        kinds = [CommandKind.DELETE_UPDATES] if is_started else []
        for old, new in zip(before.rounds, after.rounds, strict=False):
            check_moved(old, new)
            if new.phase is not old.phase:
                wanted = COMMANDS_OF_ENTERING.get(new.phase, [])
                kinds += [kind for kind in wanted if new.roster or kind is not CommandKind.DELETE_UPDATES]
        assert [command.kind for command in commands] == kinds
        ids = {command.command_id for command in commands}
        assert len(ids) == len(commands), "one id a command"
        assert not ids & self.command_ids, "no work is asked for twice"
        self.command_ids |= ids
        self.run = after

    @invariant()
    def at_most_the_last_round_is_open(self) -> None:
        assert all(not past.phase.is_open for past in self.run.rounds[:-1])
        assert [past.number for past in self.run.rounds] == list(range(1, len(self.run.rounds) + 1))
        assert len(self.run.rounds) <= self.run.terms.rounds.count

    @invariant()
    def a_running_run_has_an_open_round_or_publishes_its_last_and_an_ended_one_has_none(self) -> None:
        is_last_closed = len(self.run.rounds) == self.run.terms.rounds.count and not self.run.rounds[-1].phase.is_open
        assert (self.run.current is not None) == (self.run.state is RunState.RUNNING and not is_last_closed)
        assert (self.run.ended_at is not None) == (not self.run.state.is_open)
        assert self.run.state.is_open or self.run.open_deadlines == ()

    @invariant()
    def a_roster_is_sorted_and_names_each_site_once(self) -> None:
        for past in self.run.rounds:
            names = [entry.site for entry in past.roster]
            assert names == sorted(set(names))

    @invariant()
    def weights_of_a_candidate_sum_to_one_and_lie_on_accepted_updates_alone(self) -> None:
        for past in self.run.rounds:
            total = sum(entry.weight for entry in past.roster)
            assert abs(total - (1.0 if past.candidate is not None else 0.0)) < 1e-12
            assert all(entry.weight == 0 for entry in past.roster if entry.outcome is not SiteOutcome.ACCEPTED)

    @invariant()
    def a_candidate_has_at_least_a_quorum_behind_it(self) -> None:
        for past in self.run.rounds:
            assert past.candidate is None or len(past.accepted) >= self.run.terms.rounds.quorum

    @invariant()
    def updates_are_combined_when_all_are_scored_or_the_round_says_that_they_are_not(self) -> None:
        if self.run.terms.aggregation == PLUS_AGGREGATION:
            for past in self.run.rounds:
                assert past.candidate is None or past.is_weighed_by_size == bool(past.unscored)

    @invariant()
    def accepted_updates_are_never_lost_or_replaced(self) -> None:
        for assignment_id, update in self.accepted_updates.items():
            assert self.update_of(assignment_id) == update

    @invariant()
    def the_served_adapter_is_the_last_promoted_one_that_was_published(self) -> None:
        promoted = [past for past in self.run.rounds if past.number in self.published and past.phase is Phase.COMMITTED]
        served = [(self.run.served.version, self.run.served.adapter)] if self.run.served else []
        assert served == [(past.number, past.candidate) for past in promoted[-1:]]

    @invariant()
    def a_closed_round_says_when_and_a_failed_one_why(self) -> None:
        for past in self.run.rounds:
            assert (past.closed_at is not None) == (not past.phase.is_open)
            assert (past.reason is not None) == (past.phase in (Phase.FAILED, Phase.ABORTED))
            assert past.phase.is_open or past.deadlines == ()

    @invariant()
    def assignments_are_given_only_where_an_answer_moves_the_run(self) -> None:
        for site in SITES:
            given = assignments.for_site(self.run, site)
            assert given is None or after_answer(self.run, given.assignment_id) != self.run
        for_evaluator = assignments.for_evaluator(self.run, EVALUATOR)
        assert for_evaluator is None or self.run.open_deadlines != () or self.run.is_paused

    @invariant()
    def only_an_open_run_is_paused(self) -> None:
        assert self.run.state.is_open or not self.run.is_paused


def check_moved(old: Round, new: Round) -> None:
    """One round before and after a step."""
    assert new.phase is old.phase or new.phase in LEGAL_PHASES[old.phase]
    assert old.phase.is_open or new == old, "a closed round never moves"
    assert (new.number, new.global_adapter, new.opened_at) == (old.number, old.global_adapter, old.opened_at)
    assert not old.roster or [e.assignment_id for e in new.roster] == [e.assignment_id for e in old.roster]
    for was, now in zip(old.roster, new.roster, strict=False):
        is_unscorable = (old.phase, now.reason) == (Phase.SCORING, Reason.LOSS_NOT_FINITE)
        is_same = (now.outcome, now.update) == (was.outcome, was.update)
        assert was.outcome.is_open or is_same or is_unscorable, "an answer stands"
        assert was.scores is None or now.scores == was.scores, "a score stands"


def after_answer(run: Run, assignment_id: AssignmentId) -> Run:
    """The run after an update for that assignment."""
    return run_machine.step(
        run, ev.UpdateAccepted(at=at(0), assignment_id=assignment_id, update=make_update("an answer"))
    )[0]


AnyRun.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestAnyRun = AnyRun.TestCase

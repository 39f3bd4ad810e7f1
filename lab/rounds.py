"""Carries a run from its terms to its end in this process.

Its state machine, admission and rule are the coordinator's own, its orders those that a site's own agent would write,
with the wire's translation between the two. Only their processes and sockets are left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeVar

from common.adapter import AdapterSpec
from common.errors import FedMedError, InputInvalidError, Reason
from common.ids import Digest, RunId, SiteName, derived_id
from common.label_schema import check_task
from common.terms import Task, Terms, check_terms
from coordinator.adapters.rpc import translate as coordinator_wire
from coordinator.app.perform_commands import moved_from
from coordinator.app.update_intake import UploadClaim, admit, check_content
from coordinator.domain import assignments
from coordinator.domain import events as ev
from coordinator.domain.adapter_parts import cuts_of, id_of
from coordinator.domain.aggregation import check_needs, strategy_of
from coordinator.domain.assignments import Assignment, AssignmentKind
from coordinator.domain.kept_state import state_before
from coordinator.domain.run_machine import create_run, step
from coordinator.domain.values import AdapterPart, Phase, Round, Run, RunState, Update
from lab.cells import Adapter, Cell, Done
from lab.corpora import NoteFile
from lab.derived import Part, Personal
from lab.slots import Priority
from lab.workshop import Combination, Workshop
from site_agent.adapters import translate as site_wire
from site_agent.app.answers import FirstAdapter, TrainedUpdate, UploadHeader, evaluation_scores, trained_update
from site_agent.app.ordering import LocalSettings, order_for
from site_agent.app.ports import Unreadable
from site_agent.domain.assignment import Assignment as SiteAssignment
from site_agent.domain.policy import AS_ASKED
from site_agent.orders import EvaluateResult, FileShare, InitialiseResult, TrainResult

EVALUATOR = SiteName("evaluator")
_T = TypeVar("_T")
_START = datetime(2026, 1, 1, tzinfo=UTC)  # of every run: time plays no part here


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Where the base model lies, and on what the trainer works."""

    base_model: str
    device: str = "auto"
    threads: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run to carry out.

    Attributes:
        name: For people.
        tasks: What each site trains of the run's tasks; all of them, where it is not named.
        shares: What a site trains of each of its files, where that differs.
        max_lora_ranks: The largest rank at which each site trains; any, where it is not named.
        first: An adapter to go on from, with its shape; None: a new one is made.
    """

    name: str
    terms: Terms
    notes: Mapping[str, tuple[NoteFile, ...]]
    validation: tuple[NoteFile, ...]
    tasks: Mapping[str, tuple[Task, ...]] = field(default_factory=dict)
    shares: Mapping[str, tuple[FileShare, ...]] = field(default_factory=dict)
    max_lora_ranks: Mapping[str, int] = field(default_factory=dict)
    first: tuple[Adapter, AdapterSpec] | None = None
    priority: Priority = ()


@dataclass(slots=True, kw_only=True)
class Course:
    """A run that has ended, or is on its way.

    Attributes:
        adapters: First adapter, parts, updates, candidates and what strategies keep, by digest.
        trained: What each site said of its training, by round.
        kept: The factors that each site kept, by round.
        downloads: Bytes that each site got, by round.
    """

    run: Run
    adapters: dict[Digest, Adapter] = field(default_factory=dict)
    trained: dict[tuple[int, SiteName], TrainResult] = field(default_factory=dict)
    kept: dict[tuple[int, SiteName], Adapter] = field(default_factory=dict)
    downloads: dict[tuple[int, SiteName], int] = field(default_factory=dict)

    def after(self, round_number: int) -> Adapter:
        """The candidate of a round; of round 0, the first adapter."""
        file = self.run.rounds[round_number - 1].candidate if round_number else self.run.first_adapter
        assert file is not None, "a closed round has a candidate"
        return self.adapters[file.digest]

    def spec_of(self, adapter: Adapter) -> AdapterSpec:
        """The shape of the first adapter or of a candidate."""
        return self.run.spec_of(adapter.file)

    @property
    def last(self) -> Adapter:
        """What is served at the end; the first adapter if nothing was promoted."""
        served = self.run.served.version if self.run.served else 0
        return self.after(served)

    def personal(self, round_number: int) -> dict[SiteName, Personal]:
        """Of each site that keeps factors: what the round made for all, with those in it that the site kept last."""
        shared = self.after(round_number)
        own = {site: kept for (number, site), kept in sorted(self.kept.items()) if number <= round_number}
        return {site: Personal(shared=shared, own=kept, spec=self.spec_of(shared)) for site, kept in own.items()}


async def carry_out(plan: Plan, workshop: Workshop, machine: Machine) -> Course:
    """Carry a run to its end.

    Raises:
        InputInvalidError: TERMS_INVALID.
        UpdateRefusedError: an update was not admitted.
        FedMedError: the trainer failed, or the run did.
        OutOfTimeError: not all was done.
    """
    check_terms(plan.terms)
    check_task(plan.terms.task)
    check_needs(strategy_of(plan.terms), plan.terms)
    check_ranks(plan.terms, plan.max_lora_ranks)
    course = Course(run=create_run(RunId(derived_id("run", plan.terms.digest)), plan.terms, _START))
    carrier = _Carrier(plan, workshop, machine, course)
    while course.run.state.is_open:
        await carrier.advance()
    if course.run.state is not RunState.COMPLETED:
        raise FedMedError(course.run.reason or Reason.INTERNAL, f"{plan.name}: the run ended as {course.run.state}")
    return course


def check_ranks(terms: Terms, max_lora_ranks: Mapping[str, int]) -> None:
    """Check that every site may train at a rank that the terms allow; it would decline the run otherwise.

    Raises:
        InputInvalidError: TERMS_INVALID.
    """
    least = terms.lora.least_lora_rank or terms.lora.lora_rank
    for site in terms.rounds.sites:
        most = max_lora_ranks.get(site) or least
        if most < least:
            message = f"site {site}: expected a max_lora_rank of at least {least}, the least of these terms, got {most}"
            raise InputInvalidError(Reason.TERMS_INVALID, message)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What an agent has beside its assignment: notes, what it trains of them, and factors that it kept."""

    says: str
    notes: tuple[NoteFile, ...] = ()
    tasks: tuple[Task, ...] = tuple(Task)
    shares: tuple[FileShare, ...] = ()
    own: Adapter | None = None


@dataclass(frozen=True, slots=True)
class _Carrier:
    """One run on its way."""

    plan: Plan
    workshop: Workshop
    machine: Machine
    course: Course

    async def advance(self) -> None:
        """Do what the run waits for now."""
        run, current = self.course.run, self.course.run.current
        if run.state is RunState.INITIALISING:
            await self._initialise()
        elif current is None:
            self._post(ev.Published(at=_START, round_number=run.rounds[-1].number))
        elif current.phase is Phase.SELECTING:
            self._publish_before(current)
            sites = frozenset(map(SiteName, run.terms.rounds.sites))
            present = ev.PresenceObserved(
                at=_START,
                present=sites,
                enrolled=sites,
                evaluators=frozenset({EVALUATOR}),
                max_lora_ranks=tuple((site, self.plan.max_lora_ranks.get(site, 0)) for site in sorted(sites)),
            )
            self._post(present)
        elif current.phase is Phase.TRAINING:
            await self._cut_parts(current)
            await self._train(current)
        elif current.phase is Phase.AGGREGATING:
            await self._aggregate(current)
        else:  # SCORING, EVALUATING
            await self._score()

    def _post(self, event: ev.RunEvent) -> None:
        self.course.run, _ = step(self.course.run, event)

    def _publish_before(self, current: Round) -> None:
        """Every candidate counts as published at once."""
        if current.number > 1:
            self._post(ev.Published(at=_START, round_number=current.number - 1))

    async def _initialise(self) -> None:
        if self.plan.first is not None:
            adapter, spec = self.plan.first
        else:
            assignment = assignments.for_evaluator(self.course.run, EVALUATOR)
            assert assignment is not None, "a run that begins asks for its first adapter"
            done = await self._perform(assignment, _Work(says=f"{self.plan.name}, first adapter"))
            assert isinstance(done.result, InitialiseResult) and done.made is not None
            spec = done.result.spec
            self._admitted(assignment, done.made, FirstAdapter(spec=spec))
            adapter = done.made
        self.course.adapters[adapter.file.digest] = adapter
        self._post(ev.FirstAdapterReceived(at=_START, adapter=adapter.file, spec=spec))

    async def _cut_parts(self, current: Round) -> None:
        """What sites of a lower rank, or beside the rest, start from: as `CommandPerformer` cuts it."""
        parts = []
        for cut in cuts_of(self.course.run, current):
            wanted = Part(whole=self.course.adapters[cut.source.digest], cut=cut)
            made = await self.workshop.derive(wanted, self.plan.priority)
            self.course.adapters[made.file.digest] = made
            part_id = id_of(self.course.run, current, cut)
            parts.append(
                AdapterPart(part_id=part_id, source=cut.source.digest, start=cut.start, stop=cut.stop, file=made.file)
            )
        if parts:
            self._post(ev.PartsReady(at=_START, round_number=current.number, parts=tuple(parts)))

    async def _train(self, current: Round) -> None:
        """All sites beside each other; their answers are taken in the order of their names."""
        entries = [entry for entry in current.roster if entry.outcome.is_open]
        work = [self._train_site(current, entry.site) for entry in entries]
        for event in await carry_all(work):
            self._post(event)

    async def _train_site(self, current: Round, site: SiteName) -> ev.UpdateAccepted:
        assignment = assignments.for_site(self.course.run, site)
        assert assignment is not None and assignment.adapter is not None
        own = None
        if assignment.plan is not None and assignment.plan.own is not None:  # it starts from what it kept, if it did
            own = self.course.kept.get((current.number - 1, site))
        work = _Work(
            says=f"{self.plan.name}, round {current.number}, {site}",
            notes=self.plan.notes[site],
            tasks=self.plan.tasks.get(site, tuple(Task)),
            shares=self.plan.shares.get(site, ()),
            own=own,
        )
        done = await self._perform(assignment, work)
        assert isinstance(done.result, TrainResult) and done.made is not None
        claim = self._admitted(assignment, done.made, trained_update(done.result, assignment.adapter.digest, AS_ASKED))
        assert claim.update is not None, "what was trained is claimed as an update"
        self.course.adapters[claim.digest] = done.made
        self.course.trained[current.number, site] = done.result
        if done.kept is not None:
            self.course.kept[current.number, site] = done.kept
        side_bytes = 0 if assignment.side is None else assignment.side[0].size_bytes
        self.course.downloads[current.number, site] = assignment.adapter.size_bytes + side_bytes
        update = Update(
            file=done.made.file,
            num_examples=claim.update.num_examples,
            num_label_tokens=claim.update.num_label_tokens,
            tasks=claim.update.tasks,
        )
        return ev.UpdateAccepted(at=_START, assignment_id=assignment.assignment_id, update=update)

    async def _aggregate(self, current: Round) -> None:
        run, adapters = self.course.run, self.course.adapters
        earlier, kept = moved_from(run, current), state_before(run, current)
        asked = Combination(
            run=run,
            accepted=current.accepted,
            updates=[adapters[entry.update.file.digest] for entry in current.accepted if entry.update],
            before=adapters[current.global_adapter.digest],
            previous=None if earlier is None else adapters[earlier.digest],
            state=None if kept is None else adapters[kept[1].digest],
        )
        combined = await self.workshop.combine(asked, self.plan.priority)
        for made in filter(None, (combined.candidate, combined.state)):
            adapters[made.file.digest] = made
        ready = ev.CandidateReady(
            at=_START,
            round_number=current.number,
            candidate=combined.candidate.file,
            weights=combined.weights,
            state=combined.state.file if combined.state else None,
        )
        self._post(ready)

    async def _score(self) -> None:
        """The evaluator's next assignment: one update, or the candidate."""
        assignment = assignments.for_evaluator(self.course.run, EVALUATOR)
        assert assignment is not None, "a phase that waits for scores has something to score"
        what = assignment.entry.site if assignment.entry else "candidate"
        says = f"{self.plan.name}, round {assignment.round_number}, {what} on the validation set"
        done = await self._perform(assignment, _Work(says=says, notes=self.plan.validation))
        assert isinstance(done.result, EvaluateResult) and done.result.mean_loss is not None
        answer = evaluation_scores(done.result, done.result.mean_loss, AS_ASKED)
        scores = coordinator_wire.scores_from(site_wire.evaluation_request(assignment.assignment_id, answer).scores)
        number = assignment.round_number
        match assignment.kind:
            case AssignmentKind.SCORE:
                assert assignment.entry is not None
                self._post(ev.UpdateScored(at=_START, round_number=number, site=assignment.entry.site, scores=scores))
            case AssignmentKind.EVALUATE:
                self._post(ev.ScoresReported(at=_START, round_number=number, scores=scores))

    async def _perform(self, assignment: Assignment, work: _Work) -> Done:
        adapters, side = self.course.adapters, assignment.side
        cell = Cell(
            order=order_for(_as_the_site_sees_it(assignment), self._local(work)),
            notes=work.notes,
            adapter=None if assignment.adapter is None else adapters[assignment.adapter.digest],
            side=None if side is None else adapters[side[0].digest],
            own=work.own,
            says=work.says,
        )
        return await self.workshop.perform(cell, self.plan.priority)

    def _local(self, work: _Work) -> LocalSettings:
        files = tuple(str(note.path) for note in work.notes)
        return LocalSettings(
            base_model_location=self.machine.base_model,
            device=self.machine.device,
            threads=self.machine.threads,
            train_files=files,
            validation_files=files,
            tasks=work.tasks,
            shares=work.shares,
        )

    def _admitted(self, assignment: Assignment, made: Adapter, content: TrainedUpdate | FirstAdapter) -> UploadClaim:
        """What is said of the file, if the coordinator lets it in: by that, and by what is in it."""
        header = UploadHeader(
            assignment_id=assignment.assignment_id,
            digest=made.file.digest,
            size_bytes=made.file.size_bytes,
            content=content,
        )
        claim = coordinator_wire.claim_from(site_wire.upload_header(header))
        spec, tensors = admit(assignment, claim)
        if not made.is_nominal:
            check_content(made.path, tensors, spec)
        return claim


def _as_the_site_sees_it(assignment: Assignment) -> SiteAssignment:
    """Over the wire's own messages, so that what does not travel cannot matter."""
    seen = site_wire.poll_answer(coordinator_wire.poll_answer(assignment))
    if not isinstance(seen, SiteAssignment):
        detail = seen.detail if isinstance(seen, Unreadable) else "none"
        raise InputInvalidError(Reason.FIELD_INVALID, f"assignment: expected one that a site can read, got {detail}")
    return seen


async def carry_all(work: Sequence[Awaitable[_T]]) -> list[_T]:
    """What all of them give; when one fails, the others are carried to their end first."""
    outcomes = await asyncio.gather(*work, return_exceptions=True)
    given = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        given.append(outcome)
    return given

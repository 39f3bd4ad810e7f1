"""Makes each arm's models and scores them: which runs there are, on whose notes, and what is scored on what.

Every model is made by a run (`lab.rounds`): a single site's and a centralised one are runs with one site.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from common.adapter import AdapterSpec
from common.errors import InputInvalidError, Reason
from common.terms import AggregationTerms, BaseModelTerms, GateMetric, GateTerms, LoraTerms, Task, Terms, TrainingTerms
from lab.cells import Adapter, Cell
from lab.corpora import Corpora, NoteFile, shared_passages
from lab.experiment import Arm, Experiment, NewSite, Site, terms_of
from lab.findings import EVERYBODY, NOBODY, Scored, Setting, Trained
from lab.rounds import Course, Machine, Plan, carry_all, carry_out
from lab.slots import Priority
from lab.workshop import Workshop
from site_agent.orders import BaseModelSource, DocumentCounts, EvaluateOrder, EvaluateResult

NEW_SITE, CENTRE = "new-site", "centre"
FROM_NOTHING = "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Something to score: an adapter, or the bare base model, and what to say of it in every row."""

    arm: str
    seed: int
    trained_on: str
    adapter: Adapter | None
    terms: Terms
    round_number: int = 0
    examples: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What came of an arm with a seed."""

    scored: Sequence[Scored] = ()
    trained: Sequence[Trained] = ()
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Choice:
    """The run that an arm's model is of, and what to say of how it was chosen."""

    course: Course
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """An experiment on this machine."""

    experiment: Experiment
    corpora: Corpora
    machine: Machine
    base_model: BaseModelTerms
    workshop: Workshop
    _courses: dict[tuple[str, int], asyncio.Task[_Choice]] = field(default_factory=dict)

    @cached_property
    def tests(self) -> Mapping[str, NoteFile]:
        """Every corpus that is scored, the sites' first."""
        experiment = self.experiment
        outside = [*experiment.test.external, *([experiment.new_site.corpus] if experiment.new_site else [])]
        names = dict.fromkeys([*experiment.corpora, *outside])
        return {name: self.corpora.test(name, experiment.test.sentences) for name in names}

    @cached_property
    def validation(self) -> tuple[NoteFile, ...]:
        """The consortium's validation set, of every site's corpus.

        Raises:
            InputInvalidError: NOTES_INVALID, when a passage of it is in a test set, too.
        """
        sentences = self.experiment.validation_sentences
        sets = tuple(self.corpora.validation(name, sentences) for name in self.experiment.corpora)
        if shared := shared_passages(sets, tuple(self.tests.values())):
            message = f"validation set: expected no passage of a test set, got {shared}"
            raise InputInvalidError(Reason.NOTES_INVALID, message)
        return sets

    async def play(self, arm: Arm, seed: int) -> Played:
        """Make and score the models of an arm; raises as `lab.rounds.carry_out`."""
        priority = self.priority(arm, seed)
        match arm.kind:
            case "zero_shot":
                terms = self._terms(arm, seed, [CENTRE])
                model = Model(arm=arm.name, seed=seed, trained_on=NOBODY, adapter=None, terms=terms)
                return Played(scored=await self._score(model, self._settings(), priority))
            case "single_site":
                return _together(await carry_all([self._play_alone(arm, site, seed)
                                                  for site in self.experiment.sites_of(arm)]))  # fmt: skip
            case _:
                return await self._play_together(arm, seed)

    async def play_new_site(self, new_site: NewSite, seed: int, examples: int, start: str) -> Played:
        """A new site with so many examples, that goes on from the arm ``start``, or from nothing."""
        arm = self.experiment.arm(new_site.continues[0] if start == FROM_NOTHING else start)
        priority = (*self.priority(arm, seed)[:1], len(self.experiment.arms), examples)
        first: tuple[Adapter, AdapterSpec] | None = None
        if start != FROM_NOTHING:
            course = (await self._choice(arm, seed)).course
            first = (course.last, course.spec)
        most = max(new_site.examples)
        terms = alone(self._terms(arm, seed, [NEW_SITE]), examples)
        terms = replace(
            terms,
            training=replace(terms.training, local_epochs=new_site.local_epochs),
            rounds=replace(terms.rounds, count=1),
        )
        plan = Plan(
            name=f"new site, {examples} examples, from {start}, seed {seed}",
            terms=terms,
            notes={NEW_SITE: (self.corpora.few(new_site.corpus, most, seed),)},
            validation=self.validation,
            first=first,
            priority=priority,
        )
        course = await carry_out(plan, self.workshop, self.machine)
        model = Model(
            arm=start,
            seed=seed,
            trained_on=new_site.corpus,
            adapter=course.last,
            terms=terms,
            examples=examples,
        )
        scored = await self._score(model, {new_site.corpus: Setting.NEW_SITE}, priority)
        return Played(scored=scored)

    def priority(self, arm: Arm, seed: int) -> Priority:
        """Seed after seed, and of a seed the arms in the order of the file."""
        return (self.experiment.seeds_of(arm).index(seed), self.experiment.arms.index(arm))

    async def _play_alone(self, arm: Arm, site: Site, seed: int) -> Played:
        terms = alone(self._terms(arm, seed, [site.name]))
        course = await carry_out(
            Plan(
                name=f"{arm.name}, seed {seed}",
                terms=terms,
                notes={site.name: (self.corpora.train(site, seed),)},
                tasks={site.name: site.tasks},
                validation=self.validation,
                priority=self.priority(arm, seed),
            ),
            self.workshop,
            self.machine,
        )
        return await self._scored_course(arm, seed, course, site.corpus)

    async def _play_together(self, arm: Arm, seed: int) -> Played:
        choice = await self._choice(arm, seed)
        played = await self._scored_course(arm, seed, choice.course, EVERYBODY)
        return replace(played, notes=[choice.note] if choice.note else [])

    async def _choice(self, arm: Arm, seed: int) -> _Choice:
        """The run of an arm, carried out once, whoever asks."""
        key = (arm.name, seed)
        if key not in self._courses:
            self._courses[key] = asyncio.create_task(self._chosen(arm, seed))
        return await asyncio.shield(self._courses[key])

    async def _chosen(self, arm: Arm, seed: int) -> _Choice:
        if arm.kind != "best_of":
            return _Choice(course=await self._carry_out(arm, seed))
        names = list(arm.of)
        choices = await carry_all([self._choice(self.experiment.arm(name), seed) for name in names])
        losses = await carry_all([self._validation_loss(choice.course, arm, seed) for choice in choices])
        best = losses.index(min(losses))
        told = ", ".join(f"{name} {loss:.4f}" for name, loss in zip(names, losses, strict=True))
        note = f"{arm.name}, seed {seed}: chose {names[best]} by loss on the validation set ({told})"
        return _Choice(course=choices[best].course, note=note)

    async def _carry_out(self, arm: Arm, seed: int) -> Course:
        notes: dict[str, tuple[NoteFile, ...]]
        notes = {site.name: (self.corpora.train(site, seed),) for site in self.experiment.sites_of(arm)}
        terms = self._terms(arm, seed, list(notes))
        if arm.kind == "centralised":
            per_round = terms.training.examples_per_round
            held = [file.sentences for files in notes.values() for file in files]
            terms = alone(self._terms(arm, seed, [CENTRE]), sum(min(per_round or each, each) for each in held))
            notes = {CENTRE: tuple(file for files in notes.values() for file in files)}
        plan = Plan(
            name=f"{arm.name}, seed {seed}",
            terms=terms,
            notes=notes,
            tasks={site.name: site.tasks for site in self.experiment.sites_of(arm)},
            validation=self.validation,
            priority=self.priority(arm, seed),
        )
        return await carry_out(plan, self.workshop, self.machine)

    async def _scored_course(self, arm: Arm, seed: int, course: Course, trained_on: str) -> Played:
        last = Model(arm=arm.name, seed=seed, trained_on=trained_on, adapter=course.last, terms=course.run.terms)
        models = [last]
        if arm.score_rounds:
            models += [
                replace(last, adapter=course.after(past.number), round_number=past.number) for past in course.run.rounds
            ]
        scored = await carry_all([self._score(one, self._settings(), self.priority(arm, seed)) for one in models])
        return Played(scored=[row for rows in scored for row in rows], trained=_training_of(arm, seed, course))

    def _settings(self) -> Mapping[str, Setting]:
        inside = dict.fromkeys(self.experiment.corpora, Setting.IN_DOMAIN)
        return {**inside, **dict.fromkeys(self.experiment.test.external, Setting.EXTERNAL)}

    async def _score(self, model: Model, settings: Mapping[str, Setting], priority: Priority) -> list[Scored]:
        """One order over all test sets; each is asked for the types that it annotates."""
        names = list(settings)
        files = tuple(self.tests[name] for name in names)
        order = self._evaluation(model.terms, files, is_scored=True)
        if model.adapter is None:
            order = replace(order, lora=LoraTerms())
        says = f"{model.arm}, seed {model.seed}, {_what(model)} scored on {', '.join(names)}"
        done = await self.workshop.perform(Cell(order=order, notes=files, adapter=model.adapter, says=says), priority)
        assert isinstance(done.result, EvaluateResult)
        rows = []
        for task, told in _documents_of(done.result).items():
            for index, name in enumerate(names):
                documents = [one for one in told if one.file == index]
                if not documents:  # the corpus does not annotate what the task asks for
                    continue
                rows.append(
                    Scored(
                        arm=model.arm,
                        seed=model.seed,
                        trained_on=model.trained_on,
                        setting=settings[name],
                        test_set=name,
                        round_number=model.round_number,
                        examples=model.examples,
                        task=task,
                        strict=tuple(one.strict for one in documents),
                        lenient=tuple(one.lenient for one in documents),
                    )
                )
        return rows

    async def _validation_loss(self, course: Course, arm: Arm, seed: int) -> float:
        order = self._evaluation(course.run.terms, self.validation, is_scored=False)
        says = f"{arm.name}, seed {seed}, loss on the validation set"
        cell = Cell(order=order, notes=self.validation, adapter=course.last, says=says)
        done = await self.workshop.perform(cell, self.priority(arm, seed))
        assert isinstance(done.result, EvaluateResult) and done.result.mean_loss is not None
        return done.result.mean_loss

    def _evaluation(self, terms: Terms, files: Sequence[NoteFile], *, is_scored: bool) -> EvaluateOrder:
        source = BaseModelSource(
            location=self.machine.base_model,
            expected=self.base_model,
            device=self.machine.device,
            threads=self.machine.threads,
        )
        # Decoding asks nothing of the training terms but how the base model is held: then equal adapters share a cell.
        decoding = TrainingTerms(quantization=terms.training.quantization)
        return EvaluateOrder(
            base_model=source,
            lora=terms.lora,
            task=terms.task,
            training=decoding if is_scored else terms.training,
            data_files=tuple(str(file.path) for file in files),
            generate=is_scored,
            measure_loss=not is_scored,
            tell_documents=is_scored,
        )

    def _terms(self, arm: Arm, seed: int, sites: Sequence[str]) -> Terms:
        return terms_of(self.experiment, arm, seed, sites, self.base_model)


def alone(terms: Terms, examples_per_round: int | None = None) -> Terms:
    """For a run with one site: nothing is weighed, carried on or refused there."""
    training = terms.training
    if examples_per_round is not None:
        training = replace(training, examples_per_round=examples_per_round)
    return replace(
        terms,
        training=training,
        aggregation=AggregationTerms(wire_dtype=terms.aggregation.wire_dtype),
        gate=GateTerms(metric=GateMetric.NONE),
    )


def _training_of(arm: Arm, seed: int, course: Course) -> list[Trained]:
    rows = []
    for past in course.run.rounds:
        for entry in past.accepted:
            result = course.trained[past.number, entry.site]
            assert entry.update is not None, "an accepted update is there"
            rows.append(
                Trained(
                    arm=arm.name,
                    seed=seed,
                    site=entry.site,
                    round_number=past.number,
                    mean_loss=result.mean_loss,
                    num_examples=result.num_examples,
                    num_label_tokens=result.num_label_tokens,
                    steps=result.steps,
                    seconds=result.seconds,
                    weight=entry.weight,
                    validation_loss=entry.scores.mean_loss if entry.scores else None,
                    upload_bytes=entry.update.file.size_bytes,
                    download_bytes=past.global_adapter.size_bytes,
                    is_alone=len(past.roster) == 1,
                )
            )
    return rows


def _documents_of(result: EvaluateResult) -> dict[Task, tuple[DocumentCounts, ...]]:
    """Counts by document, task by task."""
    documents = {one.task: one.documents for one in result.tasks}
    documents[Task.ENTITIES] = result.documents
    return documents


def _what(model: Model) -> str:
    if model.adapter is None:
        return "base model"
    after = f" after round {model.round_number}" if model.round_number else ""
    return f"trained on {model.trained_on}{after}"


def _together(played: Sequence[Played]) -> Played:
    return Played(
        scored=[row for one in played for row in one.scored],
        trained=[row for one in played for row in one.trained],
        notes=[note for one in played for note in one.notes],
    )

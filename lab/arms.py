"""Makes each arm's models and scores them: which runs there are, on whose notes, and what is scored on what.

Every model is made by a run (`lab.rounds`): a single site's and a centralised one are runs with one site.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from common.adapter import AdapterSpec
from common.errors import InputInvalidError, Reason
from common.terms import AggregationTerms, BaseModelTerms, GateMetric, GateTerms, Task, Terms
from lab.cells import Adapter
from lab.choosing import Choices
from lab.corpora import Corpora, NoteFile, Texts, shared_passages, texts_of
from lab.experiment import Arm, Experiment, NewSite, Site, terms_of
from lab.findings import EVERYBODY, NOBODY, Played, Setting, personal_arm, together
from lab.rounds import Course, Machine, Plan, carry_all, carry_out
from lab.scoring import Model, Scorer
from lab.slots import Priority
from lab.training_rows import training_rows
from lab.workshop import Workshop
from site_agent.orders import FileShare

NEW_SITE, CENTRE = "new-site", "centre"
FROM_NOTHING = "nothing"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """An experiment on this machine."""

    experiment: Experiment
    corpora: Corpora
    machine: Machine
    base_model: BaseModelTerms
    workshop: Workshop
    _notes: dict[tuple[str, int], NoteFile] = field(default_factory=dict)
    _few: dict[tuple[str, int, tuple[Task, ...], float], NoteFile] = field(default_factory=dict)

    @cached_property
    def tests(self) -> Mapping[str, NoteFile]:
        """Every corpus that is scored, the sites' first."""
        experiment = self.experiment
        outside = [*experiment.test.external, *([experiment.new_site.corpus] if experiment.new_site else [])]
        names = dict.fromkeys([*experiment.corpora, *outside])
        return {name: self.corpora.test(name, experiment.test.sentences) for name in names}

    @cached_property
    def asked(self) -> Mapping[str, NoteFile]:
        """What each corpus annotates, where relations are asked for: of their many roles a test set has not all."""
        experiment = self.experiment
        asked = [self._terms(arm, experiment.seeds_of(arm)[0], [CENTRE]).task.tasks for arm in experiment.arms]
        if not any(Task.RELATIONS in tasks for tasks in asked):
            return {}
        return {name: self.corpora.whole_test(name) for name in self.tests}

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

    @cached_property
    def held_out(self) -> Texts:
        """The texts that nobody trains on: those of the test sets and of the validation set."""
        return texts_of([*self.tests.values(), *self.validation])

    def notes_of(self, site: Site, seed: int) -> NoteFile:
        """What a site trains on; raises as `lab.corpora.Corpora.train`."""
        if (site.name, seed) not in self._notes:
            self._notes[site.name, seed] = self.corpora.train(site, seed, self.held_out)
        return self._notes[site.name, seed]

    @cached_property
    def scorer(self) -> Scorer:
        """What scores models on these sets."""
        return Scorer(
            tests=self.tests,
            asked=self.asked,
            validation=self.validation,
            machine=self.machine,
            base_model=self.base_model,
            workshop=self.workshop,
        )

    async def play(self, arm: Arm, seed: int) -> Played:
        """Make and score the models of an arm; raises as `lab.rounds.carry_out`."""
        priority = self.priority(arm, seed)
        match arm.kind:
            case "zero_shot":
                terms = self._terms(arm, seed, [CENTRE])
                rank = terms.lora.lora_rank
                model = Model(arm=arm.name, seed=seed, trained_on=NOBODY, adapter=None, lora_rank=rank, terms=terms)
                return Played(scored=await self.scorer.score(model, self.settings, priority))
            case "single_site":
                return together(await carry_all([self._play_alone(arm, site, seed)
                                                  for site in self.experiment.sites_of(arm)]))  # fmt: skip
            case _:
                return await self._play_together(arm, seed)

    async def play_new_site(self, new_site: NewSite, seed: int, examples: int, start: str) -> Played:
        """A new site with so many examples, that goes on from the arm ``start``, or from nothing; task by task."""
        arm = self.experiment.new_site_arm(start)
        terms = alone(self._terms(arm, seed, [NEW_SITE]), examples)
        terms = replace(
            terms,
            training=replace(terms.training, local_epochs=new_site.local_epochs),
            rounds=replace(terms.rounds, count=1),
        )
        first: tuple[Adapter, AdapterSpec] | None = None
        if start != FROM_NOTHING:
            course = (await self._choices.of(self.experiment.arm(start), seed)).run
            first = (course.last, course.spec_of(course.last))
            terms = at_rank(terms, first[1].lora_rank)
        name = f"new site, {examples} examples, from {start}, seed {seed}"
        plan = Plan(
            name=name,
            terms=terms,
            notes={},
            validation=self.validation,
            first=first,
            priority=(self.experiment.seeds_of(arm).index(seed), len(self.experiment.arms), examples),
        )
        model = Model(
            arm=start,
            seed=seed,
            trained_on=new_site.corpus,
            adapter=None,
            lora_rank=terms.lora.lora_rank,
            terms=terms,
            examples=examples,
        )
        return together(await carry_all([self._of_one_task(new_site, plan, model, task) for task in terms.task.tasks]))

    async def _of_one_task(self, new_site: NewSite, plan: Plan, model: Model, task: Task) -> Played:
        terms = of_one_task(plan.terms, task)
        held = self.few_of(new_site, model.seed, terms)
        course = await carry_out(replace(plan, terms=terms, notes={NEW_SITE: (held,)}), self.workshop, self.machine)
        trained = replace(model, terms=terms, adapter=course.last)
        return Played(
            scored=await self.scorer.score(trained, {new_site.corpus: Setting.NEW_SITE}, plan.priority),
        )

    def few_of(self, new_site: NewSite, seed: int, asked: Terms) -> NoteFile:
        """What a new site has for one task; raises as `lab.corpora.Corpora.train`."""
        key = (new_site.corpus, seed, asked.task.tasks, asked.training.max_empty_share)
        if key not in self._few:
            self._few[key] = self.corpora.few(new_site.corpus, max(new_site.examples), seed, asked, self.held_out)
        return self._few[key]

    def priority(self, arm: Arm, seed: int) -> Priority:
        """Seed after seed, and of a seed the arms in the order of the file."""
        return (self.experiment.seeds_of(arm).index(seed), self.experiment.arms.index(arm))

    async def _play_alone(self, arm: Arm, site: Site, seed: int) -> Played:
        terms = alone(self._terms(arm, seed, [site.name]))
        if site.max_lora_rank:
            terms = at_rank(terms, min(site.max_lora_rank, terms.lora.lora_rank))
        course = await carry_out(
            Plan(
                name=f"{arm.name}, seed {seed}",
                terms=terms,
                notes={site.name: (self.notes_of(site, seed),)},
                tasks={site.name: site.tasks},
                validation=self.validation,
                priority=self.priority(arm, seed),
            ),
            self.workshop,
            self.machine,
        )
        return await self._scored_course(arm, seed, course, site)

    async def _play_together(self, arm: Arm, seed: int) -> Played:
        choice = await self._choices.of(arm, seed)
        return replace(await self._scored_course(arm, seed, choice.run), notes=choice.notes)

    @cached_property
    def _choices(self) -> Choices[Course]:
        return Choices(experiment=self.experiment, carry_out=self._carry_out, validation_loss=self._validation_loss)

    async def _carry_out(self, arm: Arm, seed: int) -> Course:
        if arm.kind == "centralised":
            return await carry_out(self._centralised(arm, seed), self.workshop, self.machine)
        notes = {site.name: (self.notes_of(site, seed),) for site in self.experiment.sites_of(arm)}
        terms = self._terms(arm, seed, list(notes))
        plan = Plan(
            name=f"{arm.name}, seed {seed}",
            terms=terms,
            notes=notes,
            tasks={site.name: site.tasks for site in self.experiment.sites_of(arm)},
            max_lora_ranks=self.experiment.max_lora_ranks,
            validation=self.validation,
            priority=self.priority(arm, seed),
        )
        return await carry_out(plan, self.workshop, self.machine)

    def _centralised(self, arm: Arm, seed: int) -> Plan:
        """One site with the notes of all, and in each round as many examples as the sites train.

        Where a site trains fewer than it has sentences, file by file: with several tasks, or some sentences left out.
        """
        sites = self.experiment.sites_of(arm)
        files = tuple(self.notes_of(site, seed) for site in sites)
        terms = self._terms(arm, seed, [CENTRE])
        per_round = terms.training.examples_per_round
        shares = tuple(FileShare(tasks=site.tasks, examples_per_round=per_round) for site in sites)
        return Plan(
            name=f"{arm.name}, seed {seed}",
            terms=alone(terms, sum(min(per_round or file.sentences, file.sentences) for file in files)),
            notes={CENTRE: files},
            shares={CENTRE: shares} if self._is_shared_out(terms) else {},
            validation=self.validation,
            priority=self.priority(arm, seed),
        )

    @staticmethod
    def _is_shared_out(terms: Terms) -> bool:
        return len(terms.task.tasks) > 1 or terms.task.relations_only or bool(terms.training.max_empty_share)

    async def _scored_course(self, arm: Arm, seed: int, course: Course, site: Site | None = None) -> Played:
        """Of the site whose run it is, or of all; where sites keep factors, the model of each of them, too.

        A site's own model is scored in the tasks that the site trains.
        """
        last = Model(
            arm=arm.name,
            seed=seed,
            trained_on=site.corpus if site else EVERYBODY,
            site=site.name if site else "",
            adapter=course.last,
            lora_rank=course.spec_of(course.last).lora_rank,
            terms=of_tasks(course.run.terms, site.tasks) if site else course.run.terms,
        )
        shared = [last]
        personal = await self._personal(last, course, len(course.run.rounds))
        for past in course.run.rounds if arm.score_rounds else ():
            this_one = replace(last, adapter=course.after(past.number), round_number=past.number)
            shared += [] if past.is_partial else [this_one]
            personal += await self._personal(this_one, course, past.number)
        priority, inside = self.priority(arm, seed), dict.fromkeys(self.experiment.corpora, Setting.IN_DOMAIN)
        work = [self.scorer.score(one, self.settings, priority) for one in shared]
        work += [self.scorer.score(one, inside, priority) for one in personal]
        scored = [row for rows in await carry_all(work) for row in rows]
        return Played(scored=scored, trained=list(training_rows(arm.name, seed, course)))

    async def _personal(self, model: Model, course: Course, round_number: int) -> list[Model]:
        """The model that each site has after a round, where it keeps factors of its own."""
        priority = self.priority(self.experiment.arm(model.arm), model.seed)
        personal = course.personal(round_number)
        made = await carry_all([self.workshop.derive(one, priority) for one in personal.values()])
        sites = {site.name: site for site in self.experiment.sites}
        return [
            replace(
                model,
                arm=personal_arm(model.arm),
                site=name,
                trained_on=sites[name].corpus,
                adapter=adapter,
                terms=of_tasks(model.terms, sites[name].tasks),
            )
            for name, adapter in zip(personal, made, strict=True)
        ]

    async def _validation_loss(self, course: Course, arm: Arm, seed: int) -> float:
        model = Model(
            arm=arm.name,
            seed=seed,
            trained_on=EVERYBODY,
            adapter=course.last,
            lora_rank=course.spec_of(course.last).lora_rank,
            terms=course.run.terms,
        )
        return await self.scorer.validation_loss(model, self.priority(arm, seed))

    @property
    def settings(self) -> Mapping[str, Setting]:
        """The corpora that every model is scored on, in order."""
        inside = dict.fromkeys(self.experiment.corpora, Setting.IN_DOMAIN)
        return {**inside, **dict.fromkeys(self.experiment.test.external, Setting.EXTERNAL)}

    def _terms(self, arm: Arm, seed: int, sites: Sequence[str]) -> Terms:
        return terms_of(self.experiment, arm, seed, sites, self.base_model)


def alone(terms: Terms, examples_per_round: int | None = None) -> Terms:
    """For a run with one site: nothing is weighed, carried on or refused there, and it trains at the whole rank."""
    training = terms.training
    if examples_per_round is not None:
        training = replace(training, examples_per_round=examples_per_round)
    return replace(
        terms,
        training=training,
        lora=replace(terms.lora, least_lora_rank=0),
        aggregation=AggregationTerms(wire_dtype=terms.aggregation.wire_dtype),
        gate=GateTerms(metric=GateMetric.NONE),
    )


def of_one_task(terms: Terms, task: Task) -> Terms:
    """The same terms for one of their tasks alone."""
    asked = terms.task
    asked = replace(asked, relations_only=True) if task is Task.RELATIONS else replace(asked, relation_types=())
    return replace(terms, task=asked)


def of_tasks(terms: Terms, tasks: Collection[Task]) -> Terms:
    """The same terms for those of their tasks alone."""
    left = [task for task in terms.task.tasks if task in tasks]
    return of_one_task(terms, left[0]) if len(left) == 1 else terms


def at_rank(terms: Terms, lora_rank: int) -> Terms:
    """The same terms for an adapter of that rank."""
    return replace(terms, lora=replace(terms.lora, lora_rank=lora_rank))

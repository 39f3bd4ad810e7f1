"""Makes the encoders of an experiment's arms and scores them, on the test sets and the validation set of its bench."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from common.errors import InputInvalidError, Reason
from common.terms import Task, Terms, check_terms
from lab.arms import CENTRE, Bench, alone
from lab.choosing import Choices
from lab.corpora import NoteFile
from lab.encoder.course import Course, Plan, Works, carry_out
from lab.experiment import Arm, Site, terms_of
from lab.findings import EVERYBODY, Played, together
from lab.rounds import carry_all
from lab.scoring import Model, Scorer

# What an arm's own ``terms.training`` may say: the rest is of language models and adapters.
SETTINGS = frozenset(
    {"local_epochs", "learning_rate", "schedule", "warmup_ratio", "weight_decay", "max_grad_norm", "batch_size",
     "tokens_per_batch", "max_length", "examples_per_round"}
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class EncoderBench:
    """The arms of a bench whose model is an encoder.

    Attributes:
        works: None where there is no encoder; ``missing`` says why.
    """

    bench: Bench
    works: Works | None
    missing: str = ""

    def check(self) -> None:
        """Check that there is an encoder, and that its arms ask for nothing that is not carried out.

        Raises:
            InputInvalidError: BASE_MODEL_UNREADABLE, SETTINGS_UNSUPPORTED, or as `lab.experiment.terms_of`.
        """
        for arm in self.bench.experiment.arms:
            if arm.model == "encoder":
                self._checked_terms(arm, self.bench.experiment.seeds_of(arm)[0], [CENTRE])

    async def play(self, arm: Arm, seed: int) -> Played:
        """Make and score the encoders of an arm; raises as `check` and `lab.encoder.course.carry_out`."""
        if arm.kind == "single_site":
            sites = self.bench.experiment.sites_of(arm)
            return together(await carry_all([self._play_alone(arm, site, seed) for site in sites]))
        choice = await self._choices.of(arm, seed)
        return replace(await self._scored_course(arm, seed, choice.run), notes=choice.notes)

    async def _play_alone(self, arm: Arm, site: Site, seed: int) -> Played:
        terms = alone(self._checked_terms(arm, seed, [site.name]))
        notes = {site.name: (self.bench.notes_of(site, seed),)}
        return await self._scored_course(arm, seed, await self._carry_out(arm, seed, terms, notes), site)

    @cached_property
    def _choices(self) -> Choices[Course]:
        experiment = self.bench.experiment
        return Choices(experiment=experiment, carry_out=self._together, validation_loss=self._validation_loss)

    async def _together(self, arm: Arm, seed: int) -> Course:
        bench = self.bench
        notes: dict[str, tuple[NoteFile, ...]]
        notes = {site.name: (bench.notes_of(site, seed),) for site in bench.experiment.sites_of(arm)}
        terms = self._checked_terms(arm, seed, list(notes))
        if arm.kind == "centralised":
            per_round = terms.training.examples_per_round
            files = tuple(file for each in notes.values() for file in each)
            terms = alone(terms, sum(min(per_round or file.sentences, file.sentences) for file in files))
            notes = {CENTRE: files}
        return await self._carry_out(arm, seed, terms, notes)

    async def _carry_out(self, arm: Arm, seed: int, terms: Terms, notes: Mapping[str, tuple[NoteFile, ...]]) -> Course:
        plan = Plan(arm=arm.name, seed=seed, terms=terms, notes=notes, priority=self.bench.priority(arm, seed))
        return await carry_out(plan, self._works)

    async def _scored_course(self, arm: Arm, seed: int, course: Course, site: Site | None = None) -> Played:
        last = _model(arm, seed, course, site)
        models = [last]
        if arm.score_rounds:
            models += [replace(last, adapter=one, round_number=index + 1) for index, one in enumerate(course.after)]
        priority = self.bench.priority(arm, seed)
        scored = await carry_all([self._scorer.score(one, self.bench.settings, priority) for one in models])
        trained = [replace(row, arm=arm.name) for row in course.trained]
        return Played(scored=[row for rows in scored for row in rows], trained=trained)

    async def _validation_loss(self, course: Course, arm: Arm, seed: int) -> float:
        model = _model(arm, seed, course)
        return await self._scorer.validation_loss(model, self.bench.priority(arm, seed))

    @property
    def _scorer(self) -> Scorer:
        """That of the bench, on the bench's sets, with encoders."""
        works = self._works
        return replace(self.bench.scorer, machine=works.machine, base_model=works.base, workshop=works.workshop)

    @property
    def _works(self) -> Works:
        if self.works is None:
            raise InputInvalidError(Reason.BASE_MODEL_UNREADABLE, self.missing)
        return self.works

    def _checked_terms(self, arm: Arm, seed: int, sites: Sequence[str]) -> Terms:
        terms = check_terms(terms_of(self.bench.experiment, arm, seed, sites, self._works.base))
        if terms.task.tasks != (Task.ENTITIES,):
            raise _unsupported(arm, f"the task {Task.ENTITIES} alone", ", ".join(terms.task.tasks))
        if terms.training.max_empty_share:
            raise _unsupported(arm, "no training.max_empty_share", str(terms.training.max_empty_share))
        training = arm.terms.get("training", {})
        settings = [name for name in arm.terms if name not in ("training", "rounds")]
        settings += [f"training.{name}" for name in training if name not in SETTINGS]
        if settings:
            raise _unsupported(arm, f"terms of rounds and of training ({', '.join(sorted(SETTINGS))})", settings[0])
        return terms


def _model(arm: Arm, seed: int, course: Course, site: Site | None = None) -> Model:
    """What there is at the end, of a site's own run or of all's; ``lora_rank`` is of no account for an encoder."""
    return Model(
        arm=arm.name,
        seed=seed,
        trained_on=site.corpus if site else EVERYBODY,
        site=site.name if site else "",
        adapter=course.after[-1],
        lora_rank=course.terms.lora.lora_rank,
        terms=course.terms,
    )


def _unsupported(arm: Arm, expected: str, got: str) -> InputInvalidError:
    message = f"arm {arm.name}: expected, of an encoder, {expected}, got {got}"
    return InputInvalidError(Reason.SETTINGS_UNSUPPORTED, message)

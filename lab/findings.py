"""What an experiment found out, as plain rows: scores by document, training by site, and what is missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from common.ids import Digest
from common.terms import Task
from lab.statistics import Part
from site_agent.orders import F1Counts, TypeCounts

EVERYBODY = "all"  # who a model was trained on, when it was on all of the arm's sites
NOBODY = "none"


class Setting(StrEnum):
    """What a test set is to the sites."""

    IN_DOMAIN = "in_domain"
    EXTERNAL = "external"
    NEW_SITE = "new_site"


class Rule(StrEnum):
    """How predictions are matched; the agnostic ones whatever their types."""

    STRICT = "strict"
    LENIENT = "lenient"
    STRICT_AGNOSTIC = "strict_agnostic"
    LENIENT_AGNOSTIC = "lenient_agnostic"


HEADLINE_RULES = (Rule.STRICT, Rule.LENIENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """One model on one test set.

    Attributes:
        trained_on: The corpus of the site whose model it is, EVERYBODY or NOBODY.
        site: Whose model it is; empty, where it is no site's own.
        round_number: After which round; 0: at the end.
        examples: Of a new site; 0 elsewhere.
        strict / lenient / strict_agnostic / lenient_agnostic: Counts of each document. The agnostic ones, and what
            follows, are empty in findings of before they were kept.
        answers / malformed_answers: How many questions the model was asked, and to how many its answer broke its form.
    """

    arm: str
    seed: int
    trained_on: str
    site: str = ""
    setting: Setting
    test_set: str
    round_number: int = 0
    examples: int = 0
    task: Task = Task.ENTITIES
    strict: tuple[F1Counts, ...]
    lenient: tuple[F1Counts, ...]
    strict_agnostic: tuple[F1Counts, ...] = ()
    lenient_agnostic: tuple[F1Counts, ...] = ()
    per_type: tuple[TypeCounts, ...] = ()
    answers: int = 0
    malformed_answers: int = 0

    @property
    def rules(self) -> list[Rule]:
        """Those that there are counts by."""
        return [rule for rule in Rule if self._documents(rule)]

    def part(self, rule: Rule) -> Part:
        """As statistics want it."""
        return Part(test_set=self.test_set, counts=self.counts(rule))

    def counts(self, rule: Rule) -> NDArray[np.int64]:
        """``(documents, 3)``: true positives, predicted, gold."""
        rows = [(one.true_positives, one.predicted, one.gold) for one in self._documents(rule)]
        return np.array(rows, dtype=np.int64).reshape(-1, 3)

    def _documents(self, rule: Rule) -> tuple[F1Counts, ...]:
        return {
            Rule.STRICT: self.strict,
            Rule.LENIENT: self.lenient,
            Rule.STRICT_AGNOSTIC: self.strict_agnostic,
            Rule.LENIENT_AGNOSTIC: self.lenient_agnostic,
        }[rule]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """One site in one round of one run.

    Attributes:
        lora_rank: At which it trained.
        full_model_bytes: What would travel if the whole model did; 0: as `Findings` has it.
        is_alone: The run has no other site: its updates are for comparison, and would not travel.
    """

    arm: str
    seed: int
    site: str
    round_number: int
    mean_loss: float
    num_examples: int
    num_label_tokens: int
    steps: int
    seconds: float
    weight: float
    validation_loss: float | None
    upload_bytes: int
    download_bytes: int
    lora_rank: int = 0
    full_model_bytes: int = 0
    is_alone: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What came of an arm with a seed.

    Attributes:
        notes: What is worth saying of it, such as what was chosen.
    """

    scored: Sequence[Scored] = ()
    trained: Sequence[Trained] = ()
    notes: Sequence[str] = ()

    def of_task(self, task: Task) -> Played:
        """This with the scores of one task alone."""
        return replace(self, scored=[one for one in self.scored if one.task is task])


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What came of an arm with a seed, and of what it is a function.

    Attributes:
        name, seed: Of the arm.
        asked: A digest of all that the outcome is a function of, but for the machine (`lab.asking`).
        made_by: Processor and versions of the libraries.
    """

    name: str
    seed: int
    asked: Digest
    made_by: str
    played: Played = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """An arm with a seed that has no numbers (yet), and why."""

    arm: str
    seed: int
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What an experiment found.

    Attributes:
        kept: All but what is missing, an arm and seed each, in the order of the experiment.
        full_model_bytes: What would travel if the base model did.
    """

    kept: Sequence[Kept] = ()
    missing: Sequence[Missing] = ()
    full_model_bytes: int = 0

    @property
    def scored(self) -> list[Scored]:
        """All scores."""
        return [row for one in self.kept for row in one.played.scored]

    @property
    def trained(self) -> list[Trained]:
        """All training."""
        return [row for one in self.kept for row in one.played.trained]

    @property
    def notes(self) -> list[str]:
        """All notes."""
        return [note for one in self.kept for note in one.played.notes]

    def tasks(self) -> list[Task]:
        """Tasks that there are scores of."""
        return [task for task in Task if any(one.task is task for one in self.scored)]

    def of_task(self, task: Task) -> Findings:
        """These findings with the scores of one task alone."""
        return replace(self, kept=[replace(one, played=one.played.of_task(task)) for one in self.kept])

    def of(self, arm: str, setting: Setting) -> list[Scored]:
        """The last models of an arm in a setting."""
        return [one for one in self.scored if one.arm == arm and one.setting is setting and not one.round_number]

    def federated(self) -> list[Trained]:
        """Training whose updates travelled."""
        return [row for row in self.trained if not row.is_alone]

    def machines(self) -> list[str]:
        """On what it was done, each once."""
        return list(dict.fromkeys(one.made_by for one in self.kept))

    def arms(self) -> list[str]:
        """Arms that have scores, in the order of the experiment."""
        return list(dict.fromkeys(one.arm for one in self.scored))


def together(played: Sequence[Played]) -> Played:
    """What came of several, as of one."""
    return Played(
        scored=[row for one in played for row in one.scored],
        trained=[row for one in played for row in one.trained],
        notes=[note for one in played for note in one.notes],
    )


def personal_arm(arm: str) -> str:
    """Under which name stand the sites' own models of a federated arm that leaves them some."""
    return f"{arm}, personal"


def is_by_site(rows: Iterable[Scored]) -> bool:
    """Whether there is a model a site."""
    return any(row.trained_on not in (EVERYBODY, NOBODY) for row in rows)


def own(rows: Iterable[Scored]) -> list[Scored]:
    """Models on the notes of the corpus that they were trained on."""
    return [one for one in rows if one.trained_on == one.test_set]


def others(rows: Iterable[Scored]) -> list[Scored]:
    """Models of one site on the other corpora."""
    return [one for one in rows if one.trained_on not in (one.test_set, EVERYBODY, NOBODY)]


def parts(rows: Iterable[Scored], rule: Rule) -> Iterator[Part]:
    """As statistics want them."""
    return (one.part(rule) for one in rows)


def pooled(rows: Iterable[Scored], rule: Rule) -> Iterator[Part]:
    """The same, with the test sets of a seed pooled."""
    return (replace(one.part(rule), pool=one.seed) for one in rows)

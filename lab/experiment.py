"""An experiment as a TOML file: corpora, sites, arms, seeds and settings, checked whole. It runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.adapter import MAX_LORA_RANK
from common.config import load_toml
from common.errors import FedMedError
from common.ids import check_name
from common.terms import BaseModelTerms, Task, Terms
from common.terms_file import merged_tables, terms_of_document


def _is_name(value: str) -> str:
    try:
        return check_name(value, "name")
    except FedMedError as error:
        raise ValueError(error.message) from None


Name = Annotated[str, AfterValidator(_is_name)]
Count = Annotated[int, Field(ge=1)]
CorpusName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Site(_Table):
    """Which notes a site trains on: so many sentences of a corpus, or of a part of it.

    Attributes:
        part: ``[2, 3]``: the second of three parts, which share no document.
        wrong_labels: This share of the entities is given a wrong type, to see what that does.
        tasks: What it trains of the run's tasks (`data.tasks` of a site's configuration).
        max_lora_rank: The largest rank at which it trains (`policy.max_lora_rank`); 0: any.
    """

    name: Name
    corpus: CorpusName
    sentences: Count
    part: tuple[int, int] = (1, 1)
    wrong_labels: Annotated[float, Field(ge=0, le=1)] = 0.0
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)] = tuple(Task)
    max_lora_rank: Annotated[int, Field(ge=0, le=MAX_LORA_RANK)] = 0

    @model_validator(mode="after")
    def _part_is_one_of_them(self) -> Self:
        if not 1 <= self.part[0] <= self.part[1]:
            raise ValueError("part: expected [k, n] with 1 <= k <= n")
        return self


class TestSets(_Table):
    """Corpora that models are scored on: so many sentences of each, in whole passages."""

    sentences: Count
    external: tuple[CorpusName, ...] = ()


class NewSite(_Table):
    """A site that comes after the federation has ended, with few examples.

    Attributes:
        examples: How many it has; a model is trained with each of these numbers. With several tasks, a model a task,
            on so many examples of that task.
        continues: Federated arms whose adapters it goes on from; beside them it begins from nothing.
        seeds: Empty: those of the arm that it goes on from.
        training: What is other than in the training terms of that arm.
        from_nothing: What is other than in those, where no adapter is gone on from: it can take larger steps. Which
            examples are trained is the same for all: curves compare beginnings.
    """

    corpus: CorpusName
    examples: Annotated[tuple[Count, ...], Field(min_length=1)]
    continues: Annotated[tuple[str, ...], Field(min_length=1)]
    local_epochs: Count = 1
    seeds: tuple[int, ...] = ()
    training: dict[str, Any] = {}
    from_nothing: dict[str, Any] = {}

    @model_validator(mode="after")
    def _examples_are_the_same_for_all(self) -> Self:
        fixed = {"local_epochs", "examples_per_round", "seed"}
        for name, table, taken in (
            ("training", self.training, fixed),
            ("from_nothing", self.from_nothing, fixed | {"max_empty_share"}),
        ):
            if strange := sorted(taken & set(table)):
                raise ValueError(
                    f"{name}: expected nothing of {', '.join(strange)}, which is the same for all its models"
                )
        return self


class Arm(_Table):
    """One way to make a model.

    Attributes:
        model: ``encoder``: a small BERT that labels words, all of its parameters trained, in place of adapters.
        sites: Who takes part; empty: all sites.
        seeds: Empty: those of the experiment.
        terms: What is other than in the experiment's terms.
        of: The arms that ``best_of`` chooses from, by their loss on the validation set.
        score_rounds: Whether the adapter of every round is scored, not the last one alone.
    """

    name: Annotated[str, Field(min_length=1, max_length=60, pattern=r"^[\w .,+=()/-]+$")]
    kind: Literal["zero_shot", "single_site", "centralised", "federated", "best_of"]
    model: Literal["base_model", "encoder"] = "base_model"
    sites: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    terms: dict[str, Any] = {}
    of: tuple[str, ...] = ()
    score_rounds: bool = False


class Experiment(_Table):
    """What is compared, on what.

    Attributes:
        validation_sentences: Of each site's corpus (its ``dev.jsonl``), for the consortium's validation set.
        compare: Further pairs of arms whose difference is shown, beside those that always are
            (`lab.comparisons.differences`): the first minus the second.
        terms: As in a terms file, without name, base model and sites.
    """

    name: Name
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]
    sites: Annotated[tuple[Site, ...], Field(min_length=1)]
    test: TestSets
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)]
    validation_sentences: Count = 60
    new_site: NewSite | None = None
    compare: tuple[tuple[str, str], ...] = ()
    terms: dict[str, Any] = {}

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        for what, names in (("sites", [one.name for one in self.sites]), ("arms", [one.name for one in self.arms])):
            if len(set(names)) < len(names):
                raise ValueError(f"{what}: expected every name once")
        problems = [
            *self._unknown_sites(),
            *self._unknown_arms(),
            *self._odd_pairs(),
            *self._other_models(),
            *self._seen_test_sets(),
        ]
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _unknown_sites(self) -> list[str]:
        known = {site.name for site in self.sites}
        return [f"arm {arm.name}: expected sites of this file, got {name!r}" for arm in self.arms for name in arm.sites
                if name not in known]  # fmt: skip

    def _unknown_arms(self) -> list[str]:
        federated = {arm.name for arm in self.arms if arm.kind == "federated"}
        asked = [(f"arm {arm.name}: of", name) for arm in self.arms for name in arm.of]
        asked += [("new_site.continues", name) for name in (self.new_site.continues if self.new_site else ())]
        problems = [f"{what}: expected federated arms, got {name!r}" for what, name in asked if name not in federated]
        if self.new_site:
            ran = [set(self.seeds_of(arm)) for arm in self.arms if arm.name in self.new_site.continues]
            strange = sorted(set(self.new_site.seeds) - ran[0].intersection(*ran)) if ran else []
            problems += [f"new_site.seeds: expected those of the arms that it continues, got {one}" for one in strange]
        wrong = [arm.name for arm in self.arms if bool(arm.of) != (arm.kind == "best_of")]
        return [*problems, *(f"arm {name}: expected `of` with best_of alone" for name in wrong)]

    def _odd_pairs(self) -> list[str]:
        known = {arm.name for arm in self.arms}
        strange = [name for pair in self.compare for name in pair if name not in known]
        return [
            *(f"compare: expected arms, got {name!r}" for name in strange),
            *(f"compare: expected two arms, got {one!r} twice" for one, other in self.compare if one == other),
        ]

    def _other_models(self) -> list[str]:
        """What asks an encoder for what is of adapters, or compares the losses of the two."""
        models = {arm.name: arm.model for arm in self.arms}
        problems = [
            f"arm {arm.name}: of: expected arms of its model, {arm.model}, got {name!r}"
            for arm in self.arms
            for name in arm.of
            if models.get(name, arm.model) != arm.model
        ]
        problems += [f"arm {arm.name}: expected an encoder to be trained, got zero_shot"
                     for arm in self.arms if (arm.model, arm.kind) == ("encoder", "zero_shot")]  # fmt: skip
        continued = self.new_site.continues if self.new_site else ()
        problems += [f"new_site.continues: expected arms with adapters, got {name!r}"
                     for name in continued if models.get(name) == "encoder"]  # fmt: skip
        return problems

    def _seen_test_sets(self) -> list[str]:
        """An external corpus is one that no site has seen."""
        seen = {site.corpus for site in self.sites}
        outside = [*self.test.external, *([self.new_site.corpus] if self.new_site else [])]
        return [f"{name}: expected a corpus that no site holds" for name in outside if name in seen]

    @property
    def corpora(self) -> tuple[str, ...]:
        """The corpora of the sites, each once, in the order of the sites."""
        return tuple(dict.fromkeys(site.corpus for site in self.sites))

    @property
    def max_lora_ranks(self) -> dict[str, int]:
        """The largest rank of each site that has one."""
        return {site.name: site.max_lora_rank for site in self.sites if site.max_lora_rank}

    def arm(self, name: str) -> Arm:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    def new_site_arm(self, start: str = "") -> Arm:
        """The arm that the new site goes on from, or whose terms it has (the first one, from nothing), with its own."""
        assert self.new_site is not None, "asked of an experiment with a new site"
        terms = {"training": self.new_site.training}
        if start in self.new_site.continues:
            arm = self.arm(start)
        else:
            arm = self.arm(self.new_site.continues[0])
            terms = merged_tables(terms, {"training": self.new_site.from_nothing})
        return arm.model_copy(update={"terms": merged_tables(arm.terms, terms)})

    def sites_of(self, arm: Arm) -> tuple[Site, ...]:
        """The sites that take part in an arm."""
        return tuple(site for site in self.sites if not arm.sites or site.name in arm.sites)

    def seeds_of(self, arm: Arm) -> tuple[int, ...]:
        """The seeds that an arm is run with."""
        return arm.seeds or self.seeds


def load_experiment(path: Path) -> Experiment:
    """The experiment in ``path``.

    Raises:
        InputInvalidError: CONFIG_INVALID, with every problem.
    """
    return load_toml(path, Experiment)


def terms_of(experiment: Experiment, arm: Arm, seed: int, sites: Sequence[str], base_model: BaseModelTerms) -> Terms:
    """The terms of an arm's run with these sites.

    Raises:
        InputInvalidError: CONFIG_INVALID or TERMS_INVALID, with every problem.
    """
    named = {"name": experiment.name, "base_model": {
        "name": base_model.name,
        "weights_digest": base_model.weights_digest,
        "tokenizer_digest": base_model.tokenizer_digest,
        "chat_template_digest": base_model.chat_template_digest,
    }}  # fmt: skip
    fixed = {"rounds": {"sites": sorted(sites), "quorum": len(sites)}, "training": {"seed": seed}}
    tables = merged_tables(merged_tables(experiment.terms, arm.terms), merged_tables(named, fixed))
    return terms_of_document(tables, Path(f"{experiment.name}, arm {arm.name}"))


__all__ = ["Arm", "Experiment", "NewSite", "Site", "TestSets", "ValidationError", "load_experiment", "terms_of"]

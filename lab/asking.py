"""What an experiment asks for: each arm with each seed, under a digest of all that its outcome is a function of.

The digest has the notes, the sets that are scored, the whole terms with their defaults, and the base model in it; other
arms and seeds of the experiment, and the machine, have no part in it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from common.ids import Digest, digest_of
from common.terms import GateMetric, Terms
from coordinator.domain.aggregation import strategy_of
from coordinator.domain.aggregation.strategy import Need
from lab.arms import CENTRE, FROM_NOTHING, Bench, of_one_task
from lab.encoder.arms import EncoderBench
from lab.experiment import Arm, NewSite, Site, terms_of
from lab.findings import Played, Setting

# Raised when the same is asked and other counts come of it, whatever made the difference: trainer, strategies, scores.
_EDITION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """An arm with a seed.

    Attributes:
        play: Makes it and scores it.
    """

    name: str
    seed: int
    digest: Digest
    play: Callable[[], Awaitable[Played]]


def all_asked(bench: Bench, encoders: EncoderBench) -> Iterator[Asked]:
    """Everything that the experiment asks for.

    Raises:
        InputInvalidError: as `lab.corpora.Corpora.train` and `lab.experiment.terms_of`.
    """
    experiment = bench.experiment
    for arm in experiment.arms:
        for seed in experiment.seeds_of(arm):
            yield _of_arm(bench, encoders, arm, seed)
    if (new_site := experiment.new_site) is None:
        return
    for start in (FROM_NOTHING, *new_site.continues):
        for seed in new_site.seeds or experiment.seeds_of(experiment.new_site_arm(start)):
            for examples in new_site.examples:
                yield _of_new_site(bench, new_site, seed, examples, start)


def _of_arm(bench: Bench, encoders: EncoderBench, arm: Arm, seed: int) -> Asked:
    works = encoders.works if arm.model == "encoder" else None
    parts = {
        "arms": [_arm_parts(bench, one, seed) for one in (arm, *map(bench.experiment.arm, arm.of))],
        "encoder": [works.base.weights_digest, works.base.tokenizer_digest] if works else None,
        "validation": [file.digest for file in bench.validation] if arm.kind != "zero_shot" else [],
        "tests": _sets(bench, bench.settings),
    }
    player = encoders if arm.model == "encoder" else bench
    return Asked(name=arm.name, seed=seed, digest=_digest(parts), play=lambda: player.play(arm, seed))


def _of_new_site(bench: Bench, new_site: NewSite, seed: int, examples: int, start: str) -> Asked:
    terms = _terms(bench, bench.experiment.new_site_arm(start), seed)
    parts = {
        "start": None if start == FROM_NOTHING else _start_parts(bench, bench.experiment.arm(start), seed),
        "terms": terms.canonical.decode(),
        "examples": examples,
        "local_epochs": new_site.local_epochs,
        "held": [bench.few_of(new_site, seed, one).digest for one in _one_by_one(terms)],
        "tests": _sets(bench, {new_site.corpus: Setting.NEW_SITE}),
    }
    return Asked(
        name=f"new site, {examples} examples, from {start}",
        seed=seed,
        digest=_digest(parts),
        play=lambda: bench.play_new_site(new_site, seed, examples, start),
    )


def _one_by_one(terms: Terms) -> list[Terms]:
    return [of_one_task(terms, task) for task in terms.task.tasks]


def _arm_parts(bench: Bench, arm: Arm, seed: int) -> Mapping[str, Any]:
    """What the models of an arm are a function of."""
    sites = bench.experiment.sites_of(arm) if arm.kind != "zero_shot" else ()
    return {
        "arm": arm.model_dump(mode="json", include={"name", "kind", "model", "of", "score_rounds"}),
        "terms": _terms(bench, arm, seed).canonical.decode(),
        "sites": [[_site_parts(site), bench.notes_of(site, seed).digest] for site in sites],
    }


def _start_parts(bench: Bench, arm: Arm, seed: int) -> Mapping[str, Any]:
    """What the adapter of a federated arm is a function of: of the validation set, too, where it scores the rounds."""
    terms = _terms(bench, arm, seed)
    is_scored = terms.gate.metric is not GateMetric.NONE or Need.UPDATE_SCORES in strategy_of(terms).needs
    validation = {"validation": [file.digest for file in bench.validation]} if is_scored else {}
    return {**_arm_parts(bench, arm, seed), **validation}


def _site_parts(site: Site) -> Mapping[str, Any]:
    return site.model_dump(mode="json", exclude={"sentences", "part", "wrong_labels"})  # which make the notes


def _sets(bench: Bench, settings: Mapping[str, Setting]) -> list[list[str]]:
    """The sets that are scored, in their order, and what says which questions are asked of them."""
    return [
        [name, setting, bench.tests[name].digest, bench.asked[name].digest if bench.asked else ""]
        for name, setting in settings.items()
    ]


def _terms(bench: Bench, arm: Arm, seed: int) -> Terms:
    """Those of an arm, without the experiment's name: experiments that ask for the same share what was found."""
    return replace(terms_of(bench.experiment, arm, seed, [CENTRE], bench.base_model), name="any")


def _digest(parts: Mapping[str, Any]) -> Digest:
    whole = {"edition": _EDITION, **parts}
    return digest_of(json.dumps(whole, sort_keys=True, separators=(",", ":")).encode())

"""What an experiment asks for: each arm with each seed, under a digest of all that its outcome is a function of.

The digest knows nothing of the machine. It changes with the notes, the sets that are scored, the terms and the base
model; other arms and seeds of the experiment do not change it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from common.ids import Digest, digest_of
from common.terms import BaseModelTerms
from lab.arms import CENTRE, FROM_NOTHING, Bench, of_one_task
from lab.cells import EDITION
from lab.encoder.arms import EncoderBench
from lab.experiment import Arm, NewSite, terms_of
from lab.findings import Played


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
        InputInvalidError: as `lab.corpora.Corpora.train`.
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
    if arm.model == "encoder":
        base = encoders.works.base if encoders.works else None
        digest = _digest(bench, base, arm, seed)
        return Asked(name=arm.name, seed=seed, digest=digest, play=lambda: encoders.play(arm, seed))
    digest = _digest(bench, bench.base_model, arm, seed)
    return Asked(name=arm.name, seed=seed, digest=digest, play=lambda: bench.play(arm, seed))


def _of_new_site(bench: Bench, new_site: NewSite, seed: int, examples: int, start: str) -> Asked:
    arm = bench.experiment.new_site_arm(start)
    terms = terms_of(bench.experiment, arm, seed, [CENTRE], bench.base_model)
    held = [bench.few_of(new_site, seed, of_one_task(terms.task, task)).digest for task in terms.task.tasks]
    own = new_site.model_dump(mode="json", include={"corpus", "local_epochs", "terms"}, exclude_defaults=True)
    more = {"examples": examples, "start": start, "held": held, **own}
    return Asked(
        name=f"new site, {examples} examples, from {start}",
        seed=seed,
        digest=_digest(bench, bench.base_model, arm, seed, more),
        play=lambda: bench.play_new_site(new_site, seed, examples, start),
    )


def _digest(
    bench: Bench, base: BaseModelTerms | None, arm: Arm, seed: int, new_site: Mapping[str, object] | None = None
) -> Digest:
    experiment = bench.experiment
    arms = [arm, *(experiment.arm(name) for name in arm.of)]
    sites = {site.name: site for one in arms for site in experiment.sites_of(one)}
    asked: dict[str, Any] = {
        "edition": EDITION,
        "experiment": experiment.model_dump(mode="json", exclude={"arms", "seeds", "new_site"}, exclude_defaults=True),
        "arms": [one.model_dump(mode="json", exclude={"seeds"}, exclude_defaults=True) for one in arms],
        "seed": seed,
        "base_model": [base.weights_digest, base.tokenizer_digest] if base else None,
        "notes": {name: bench.notes_of(site, seed).digest for name, site in sorted(sites.items())},
        "validation": [file.digest for file in bench.validation],
        "tests": {name: file.digest for name, file in sorted(bench.tests.items())},
        "asked": {name: file.digest for name, file in sorted(bench.asked.items())},
        "new_site": new_site,
    }
    return digest_of(json.dumps(asked, sort_keys=True, separators=(",", ":")).encode())

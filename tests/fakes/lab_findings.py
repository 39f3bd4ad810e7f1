"""Findings with numbers that are drawn, in the shape of a finished experiment."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace

from common.ids import digest_of
from lab.experiment import Experiment
from lab.findings import EVERYBODY, NOBODY, Findings, Kept, Missing, Played, Scored, Setting, Trained
from site_agent.orders import F1Counts, TypeCounts
from site_agent.trainer.extraction.scoring import add_counts

SITES = ("north", "south", "west")
ABROAD = "abroad"
ARMS = (
    {"name": "Zero-shot", "kind": "zero_shot"},
    {"name": "Single site", "kind": "single_site"},
    {"name": "Centralised", "kind": "centralised"},
    {"name": "Fed-MedLoRA", "kind": "federated", "score_rounds": True},
    {"name": "FFA_LoRA", "kind": "federated", "terms": {"aggregation": {"strategy": "ffa_lora"}}},
)
QUALITY = {"Zero-shot": 0.1, "Single site": 0.35, "Centralised": 0.6, "Fed-MedLoRA": 0.55, "FFA_LoRA": 0.45}


def whole_experiment() -> Experiment:
    """Three sites, one external corpus, every kind of arm but ``best_of``."""
    return Experiment.model_validate(
        {
            "name": "whole",
            "seeds": [1, 2],
            "sites": [{"name": name, "corpus": name, "sentences": 100} for name in SITES],
            "test": {"sentences": 40, "external": [ABROAD]},
            "new_site": {"corpus": ABROAD, "examples": [10, 50], "continues": ["Fed-MedLoRA"]},
            "arms": ARMS,
        }
    )


def drawn_documents(
    chance: random.Random, quality: float, documents: int = 30, test_set: str = ""
) -> tuple[F1Counts, ...]:
    """Counts of documents whose entities are found with that probability; how many there are, the test set says."""
    rows, golds = [], random.Random(test_set)
    for _ in range(documents):
        gold = golds.randint(0, 6)
        matched = sum(chance.random() < quality for _ in range(gold))
        rows.append(F1Counts(true_positives=matched, predicted=matched + chance.randint(0, 2), gold=gold))
    return tuple(rows)


def whole_findings() -> Findings:
    """What such an experiment might find; the last arm's second seed is missing, and Zero-shot has headlines alone."""
    chance = random.Random(3)
    played = Played(
        scored=[*_models(chance), *_rounds(chance), *_new_site(chance)],
        trained=list(_training(chance)),
        notes=["something worth saying"],
    )
    return Findings(
        kept=[kept_of(played)],
        missing=[Missing(arm="FFA_LoRA", seed=2, why="not done yet")],
        full_model_bytes=300_000_000,
    )


def kept_of(played: Played) -> Kept:
    """As if it were of one arm and seed."""
    return Kept(name="whole", seed=1, asked=digest_of(b""), made_by="machine: this one", played=played)


def _scored(chance: random.Random, quality: float, **fields: object) -> Scored:
    documents = drawn_documents(chance, quality, test_set=str(fields["test_set"]))
    row = Scored(**{"setting": Setting.IN_DOMAIN, "strict": documents, "lenient": documents, **fields})  # type: ignore[arg-type]
    if row.arm == "Zero-shot":
        return row
    total = add_counts(documents)
    by_type = (TypeCounts(entity_type="drug", strict=total, lenient=total),)
    return replace(
        row,
        strict_agnostic=documents,
        lenient_agnostic=documents,
        per_type=by_type,
        answers=100,
        malformed_answers=5,
    )


def _models(chance: random.Random) -> Iterator[Scored]:
    for arm, quality in QUALITY.items():
        for seed in (1,) if arm in ("FFA_LoRA", "Zero-shot") else (1, 2):
            for trained_on in SITES if arm == "Single site" else ({"Zero-shot": NOBODY}.get(arm, EVERYBODY),):
                for test in (*SITES, ABROAD):
                    setting = Setting.EXTERNAL if test == ABROAD else Setting.IN_DOMAIN
                    at_home = quality + (0.3 if trained_on == test else 0.0)
                    yield _scored(
                        chance, at_home, arm=arm, seed=seed, trained_on=trained_on, test_set=test, setting=setting
                    )


def _rounds(chance: random.Random) -> Iterator[Scored]:
    for number in (1, 2, 3):
        for test in (*SITES, ABROAD):
            setting = Setting.EXTERNAL if test == ABROAD else Setting.IN_DOMAIN
            yield _scored(
                chance,
                0.15 * number,
                arm="Fed-MedLoRA",
                seed=1,
                trained_on=EVERYBODY,
                test_set=test,
                round_number=number,
                setting=setting,
            )


def _new_site(chance: random.Random) -> Iterator[Scored]:
    for arm, start in (("nothing", 0.1), ("Fed-MedLoRA", 0.5)):
        for examples in (10, 50):
            yield _scored(
                chance,
                start + examples / 200,
                arm=arm,
                seed=1,
                trained_on=ABROAD,
                test_set=ABROAD,
                examples=examples,
                setting=Setting.NEW_SITE,
            )


def _training(chance: random.Random) -> Iterator[Trained]:
    for arm in ("Single site", "Centralised", "Fed-MedLoRA", "FFA_LoRA"):
        for site in ("centre",) if arm == "Centralised" else SITES:
            for number in (1, 2, 3):
                yield Trained(
                    arm=arm,
                    seed=1,
                    site=site,
                    round_number=number,
                    mean_loss=1 / number + chance.random() / 5,
                    num_examples=100,
                    num_label_tokens=1000,
                    steps=25,
                    seconds=10.0,
                    weight=1.0 if arm in ("Single site", "Centralised") else 1 / 3,
                    validation_loss=None,
                    upload_bytes=2_500_000 if arm == "FFA_LoRA" else 5_000_000,
                    download_bytes=5_000_000,
                    is_alone=arm in ("Single site", "Centralised"),
                )

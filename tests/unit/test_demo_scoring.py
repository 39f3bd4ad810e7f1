"""The orders of the demo's scoring: what a single-site model is trained on, and what each model is asked."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from common.terms import RoundTerms
from demo import chains
from demo.corpora import SiteCorpus
from demo.processes import ProcessGroup
from demo.scoring import ScoreKey, Scorer, chains_at_once
from site_agent.app.ordering import LocalSettings, order_for
from site_agent.orders import (
    ADAPTER_FILE,
    FAILURE,
    FAILURE_FILE,
    ORDER,
    ORDER_FILE,
    RESULT,
    RESULT_FILE,
    UPDATE_FILE,
    EvaluateOrder,
    Failure,
    FailureReason,
    TrainResult,
)
from tests.fakes.demo_values import SITES, found_of_ten, make_options, write_passages
from tests.fakes.site_values import make_terms, train_assignment

ROUNDS = 3
TRAINED = TrainResult(
    num_examples=6,
    num_label_tokens=100,
    mean_loss=1.0,
    steps=3,
    seconds=1.0,
    tokens_per_second=10.0,
    padding_share=0.0,
    peak_memory_bytes=1,
)


class InstantTrainers(ProcessGroup):
    """Trainers that have done all their orders when they are next asked for; those for ``unable`` fail."""

    def __init__(self, folder: Path, unable: str = "") -> None:
        super().__init__(folder)
        self.unable = unable
        self.at_work: list[str] = []
        self.most_at_work = 0

    def start(
        self,
        name: str,
        module: str,
        *arguments: str,
        environment: dict[str, str] | None = None,
        log: Path | None = None,
    ) -> None:
        self.at_work.append(name)
        self.most_at_work = max(self.most_at_work, len(self.at_work))
        for folder in map(Path, arguments):
            if self.unable and self.unable in str(folder):
                failure = Failure(reason=FailureReason.OUT_OF_MEMORY, detail="expected 1 GB, got 0", error_id="e")
                (folder / FAILURE_FILE).write_bytes(FAILURE.dump_json(failure))
            else:
                result = found_of_ten(5) if folder.name.startswith("on-") else TRAINED
                (folder / RESULT_FILE).write_bytes(RESULT.dump_json(result))

    def ended(self) -> dict[str, int]:
        return dict.fromkeys(self.at_work, 0)

    def stop(self, names: Sequence[str] | None = None) -> None:
        self.at_work = [name for name in self.at_work if name not in (names or ())]


@pytest.fixture
def scorer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scorer:
    monkeypatch.setattr(chains, "POLL_SECONDS", 0.0)
    corpora = [
        SiteCorpus(site=site, train=tmp_path / site, dev=tmp_path / f"{site}-dev", test=tmp_path / f"{site}-test")
        for site in SITES
    ]
    for corpus in corpora:
        write_passages(corpus.test, [5])
    return Scorer(
        options=make_options(tmp_path, tmp_path / "model", rounds=ROUNDS),
        terms=replace(make_terms(), rounds=RoundTerms(count=ROUNDS, quorum=1, sites=SITES)),
        corpora=corpora,
        folder=tmp_path / "scores",
        federated=tmp_path / "federated.safetensors",
        at_once=2,
    )


def order_in_federation(scorer: Scorer, site: str, round_number: int) -> object:
    """What the site's own agent ordered in that round."""
    corpus = next(corpus for corpus in scorer.corpora if corpus.site == site)
    local = LocalSettings(
        base_model_location=scorer.options.base_model,
        device="cpu",
        threads=1,
        train_files=(str(corpus.train),),
        validation_files=(),
    )
    return order_for(replace(train_assignment(round_number), terms=scorer.terms), local)


def order_in(folder: Path) -> object:
    return ORDER.validate_json((folder / ORDER_FILE).read_bytes())


def quietly() -> Console:
    return Console(file=io.StringIO())


def test_a_single_site_model_is_trained_by_the_orders_that_its_site_got_in_the_federation(scorer: Scorer) -> None:
    scorer.score(InstantTrainers(scorer.folder), quietly())

    for site in SITES:
        home = scorer.folder / f"single_site:{site}"
        assert [order_in(home / f"round-{number}") for number in (1, 2, 3)] == [
            order_in_federation(scorer, site, number) for number in (1, 2, 3)
        ]


def test_a_single_site_model_goes_on_each_round_from_its_own_update(scorer: Scorer) -> None:
    scorer.score(InstantTrainers(scorer.folder), quietly())

    home = scorer.folder / "single_site:anna"
    links = [home / folder / ADAPTER_FILE for folder in ("round-1", "round-2", "round-3", "on-anna", "on-berta")]
    assert [link.readlink() for link in links] == [
        home / folder / UPDATE_FILE for folder in ("first", "round-1", "round-2", "round-3", "round-3")
    ]


def test_every_model_is_scored_on_every_sites_notes_without_the_loss(scorer: Scorer) -> None:
    scores = scorer.score(InstantTrainers(scorer.folder), quietly())

    models = ("zero_shot", "federated", "single_site:anna", "single_site:berta")
    assert set(scores) == {ScoreKey(model=model, site=site) for model in models for site in SITES}
    orders = [order_in(folder) for folder in scorer.folder.glob("*/on-*")]
    assert orders
    assert all(isinstance(order, EvaluateOrder) and not order.measure_loss for order in orders)


@pytest.mark.parametrize("at_once", [1, 2])
def test_no_more_trainers_work_beside_each_other_than_there_is_room_for(scorer: Scorer, at_once: int) -> None:
    trainers = InstantTrainers(scorer.folder)

    replace(scorer, at_once=at_once).score(trainers, quietly())

    assert (trainers.most_at_work, trainers.at_work) == (at_once, [])


def test_each_order_that_is_done_is_told_once_with_its_score(scorer: Scorer) -> None:
    console = quietly()
    scorer.score(InstantTrainers(scorer.folder), console)

    assert isinstance(console.file, io.StringIO)
    lines = console.file.getvalue().splitlines()
    assert [line.split(":")[0] for line in lines] == [f"{number} of 16" for number in range(1, 17)]
    assert any(line.endswith("federation on the notes of anna, strict F1 0.500") for line in lines)


def test_a_trainer_that_fails_ends_the_scoring_with_what_it_said(scorer: Scorer) -> None:
    with pytest.raises(RuntimeError, match="federated/on-anna: OUT_OF_MEMORY: expected 1 GB, got 0"):
        scorer.score(InstantTrainers(scorer.folder, unable="federated"), quietly())


def test_each_core_has_a_trainer_and_a_gpu_has_one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)

    assert (chains_at_once("cpu"), chains_at_once("auto")) == (3, 1)

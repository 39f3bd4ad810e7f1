"""The lab end to end on a tiny model: every arm, work that is shared, killed and gone on with, and estimated."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.terms import Task
from lab.arms import Bench
from lab.cli import run
from lab.comparisons import main_table
from lab.estimate import EstimatingWorkshop, measured_rates
from lab.experiment import Experiment, load_experiment
from lab.findings import Findings, Played, Rule, Setting
from lab.kept import read_kept, write_kept
from lab.options import parse_options
from lab.playing import failures, play_all
from lab.slots import Slots
from lab.tables import report
from site_agent.orders import RESULT_FILE, UPDATE_FILE
from site_agent.trainer.extraction.scoring import add_counts
from tests.fakes.lab_bench import SITES, TERMS, Lab, TrainerHere, experiment

ARMS: list[dict[str, Any]] = [
    {"name": "zero", "kind": "zero_shot"},
    {"name": "alone", "kind": "single_site"},
    {"name": "centre", "kind": "centralised"},
    {"name": "together", "kind": "federated", "score_rounds": True},
    {"name": "plus", "kind": "federated", "terms": {"aggregation": {"strategy": "fed_medlora_plus"}}},
    {"name": "half", "kind": "federated", "terms": {"aggregation": {"strategy": "ffa_lora"}}},
    {"name": "best", "kind": "best_of", "of": ["plus", "half"]},
    {"name": "adam", "kind": "federated", "terms": {"aggregation": {"strategy": "fedadam"}}},
]
RELATIONS = Path(__file__).parents[2] / "benchmarks" / "experiments" / "relations.toml"
NEW_SITE = {"corpus": "abroad", "examples": [2, 4], "continues": ["together"]}


def everything() -> Experiment:
    return experiment(arms=ARMS, new_site=NEW_SITE)


def played(lab: Lab, trainer: TrainerHere, chosen: Experiment, slots: Slots | None = None) -> Findings:
    return asyncio.run(play_all(lab.bench(chosen, lab.workshop(trainer, slots))))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def trainer() -> TrainerHere:
    return TrainerHere()


@pytest.fixture(scope="module")
def found(lab: Lab, trainer: TrainerHere) -> Findings:
    """Everything, done once."""
    return played(lab, trainer, everything())


def test_every_arm_is_scored_on_every_test_set(found: Findings) -> None:
    assert found.missing == []
    for arm in ARMS:
        inside = {row.test_set for row in found.of(str(arm["name"]), Setting.IN_DOMAIN)}
        outside = {row.test_set for row in found.of(str(arm["name"]), Setting.EXTERNAL)}
        assert (inside, outside) == ({"north", "south"}, {"abroad"})
    assert all(row.counts(Rule.STRICT)[:, 2].sum() > 0 for row in found.scored)
    assert {row.examples for row in found.scored if row.setting is Setting.NEW_SITE} == {2, 4}
    assert main_table(everything(), found)


def test_what_a_model_answers_is_told_beside_its_scores(found: Findings) -> None:
    for row in found.scored:
        assert row.rules == list(Rule)
        assert {one.entity_type for one in row.per_type} == {"drug", "problem"}
        assert add_counts(one.strict for one in row.per_type) == add_counts(row.strict)
        assert 0 <= row.malformed_answers <= row.answers
        assert row.answers > 0


def test_a_round_of_one_site_is_that_sites_own_update(lab: Lab, found: Findings) -> None:
    candidates = {path.read_bytes() for path in lab.store.folder.glob("combined/*/adapter.safetensors")}
    updates = {path.read_bytes() for path in lab.store.folder.glob(f"cells/*/{UPDATE_FILE}")}

    alone = {row.site for row in found.trained if row.arm == "alone"}
    assert alone == {"north", "south"}
    assert len(candidates & updates) >= 4  # of two sites in two rounds


def test_the_first_round_of_a_site_is_trained_once_for_all_arms_that_ask_for_the_same(
    lab: Lab, found: Findings
) -> None:
    losses = {
        (row.arm, row.site): row.mean_loss for row in found.trained if row.round_number == 1 and row.site == "north"
    }

    assert losses["alone", "north"] == losses["together", "north"] == losses["plus", "north"]
    told = [says for says in lab.told if says.endswith("round 1, north")]
    assert len(told) == 2  # and once more with A held fast


def test_the_weights_of_updates_that_were_scored_follow_their_losses(found: Findings) -> None:
    rows = [row for row in found.trained if row.arm == "plus" and row.round_number == 1]
    best = min(rows, key=lambda row: row.validation_loss or 0)

    assert all(row.validation_loss is not None for row in rows)
    assert best.weight == max(row.weight for row in rows)
    assert sum(row.weight for row in rows) == pytest.approx(1)


def test_half_of_the_factors_travel_up_where_the_strategy_says_so(found: Findings) -> None:
    sizes = {row.arm: row.upload_bytes for row in found.trained if not row.is_alone}

    assert sizes["half"] < 0.8 * sizes["together"]


def test_the_best_of_several_arms_has_the_scores_of_the_one_that_was_chosen(found: Findings) -> None:
    (note,) = found.notes
    chosen = note.split("chose ")[1].split()[0]

    best, same = (found.of(name, Setting.IN_DOMAIN) for name in ("best", chosen))
    assert [replace(row, arm="") for row in best] == [replace(row, arm="") for row in same]


def test_what_was_done_is_not_done_again(lab: Lab, trainer: TrainerHere, found: Findings) -> None:
    before = len(trainer.performed)

    again = played(lab, trainer, everything())

    assert len(trainer.performed) == before
    assert again == found


def test_relations_are_learnt_and_scored_beside_entities_and_a_site_may_train_entities_alone(tmp_path: Path) -> None:
    terms = {**TERMS, "task": {**TERMS["task"], "relation_types": ["hasAttr"]}}
    sites = [{**SITES[0], "tasks": ["entities"]}, {**SITES[1], "tasks": ["relations"]}]
    chosen = experiment(arms=[ARMS[3], ARMS[2]], terms=terms, sites=sites, new_site=NEW_SITE)

    found = played(Lab(tmp_path), TrainerHere(), chosen)

    counted = {(row.arm, row.round_number): row for row in found.trained if row.arm == "centre"}
    for number in (1, 2):
        together = [row for row in found.trained if (row.arm, row.round_number) == ("together", number)]
        at_once = counted["centre", number]  # the very examples: as many, with as many tokens to learn
        assert at_once.num_examples == sum(row.num_examples for row in together) == 8
        assert at_once.num_label_tokens == sum(row.num_label_tokens for row in together)
    curves = {(row.task, row.arm, row.examples) for row in found.scored if row.setting is Setting.NEW_SITE}
    assert curves == {(task, arm, count) for task in Task for arm in ("nothing", "together") for count in (2, 4)}
    assert found.missing == []
    assert found.tasks() == [Task.ENTITIES, Task.RELATIONS]
    relations = found.of_task(Task.RELATIONS).of("together", Setting.IN_DOMAIN)
    assert {row.test_set for row in relations} == {"north", "south"}
    assert all(row.counts(Rule.STRICT)[:, 2].sum() > 0 for row in relations)
    text = report(experiment(arms=[ARMS[3]]), found)
    assert text.index("## F1 of entities") < text.index("## F1 of relations")


def test_training_in_one_place_leaves_out_as_many_sentences_without_anything_to_find_as_the_sites_do(
    tmp_path: Path,
) -> None:
    terms = {**TERMS, "training": {**TERMS["training"], "examples_per_round": 8, "max_empty_share": 0.01}}
    sites = [{**site, "sentences": count} for site, count in zip(SITES, (8, 24), strict=True)]

    found = played(Lab(tmp_path), TrainerHere(), experiment(arms=[ARMS[3], ARMS[2]], terms=terms, sites=sites))

    for number in (1, 2):
        counts = {arm: [row.num_examples for row in found.trained if (row.arm, row.round_number) == (arm, number)]
                  for arm in ("together", "centre")}  # fmt: skip
        assert counts["centre"] == [sum(counts["together"])]
        assert min(counts["together"]) < max(counts["together"]) == 8  # one site has fewer left than it may train
    assert found.missing == []


class Killed(BaseException):
    """Stands for the end of the process."""


def test_killed_at_any_cell_it_goes_on_and_finds_the_same(tmp_path: Path) -> None:
    small = experiment(arms=[ARMS[3], ARMS[4]])
    whole = Lab(tmp_path / "whole")
    undisturbed = TrainerHere()
    expected = played(whole, undisturbed, small)
    broken, performed = Lab(tmp_path / "broken"), 0
    for kill_at in (1, 3, 5, 1000):
        trainer = TrainerHere()

        def kill(folder: Path, trainer: TrainerHere = trainer, kill_at: int = kill_at) -> None:
            if len(trainer.performed) + 1 >= kill_at:
                raise Killed

        trainer.before = kill
        try:
            outcome = played(broken, trainer, small)
        except Killed:
            performed += len(trainer.performed)
            continue
        performed += len(trainer.performed)

    assert timeless(outcome) == timeless(expected)
    assert performed == len(undisturbed.performed)


def timeless(found: Findings) -> Findings:
    """As they are without how long it took."""
    return replace(found, kept=[replace(one, played=_timeless(one.played)) for one in found.kept])


def _timeless(played: Played) -> Played:
    return replace(played, trained=[replace(row, seconds=0.0) for row in played.trained])


def test_when_time_is_over_it_says_what_is_missing_and_reports_the_rest(lab: Lab, found: Findings) -> None:
    more = experiment(arms=[ARMS[3]], seeds=[1, 2])

    partly = played(lab, TrainerHere(), more, Slots(1, lambda: True))

    assert [(one.arm, one.seed, one.why) for one in partly.missing] == [("together", 2, "not done yet")]
    assert partly.of("together", Setting.IN_DOMAIN) == found.of("together", Setting.IN_DOMAIN)
    assert failures(partly) == []


def test_an_arm_whose_trainer_fails_is_told_with_its_reason_and_tried_again_next_time(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    too_long = {**TERMS, "training": {**TERMS["training"], "max_length": 16}}
    failing = experiment(arms=[{**ARMS[0]}, {**ARMS[3], "terms": too_long}])

    outcome = played(lab, TrainerHere(), failing)

    (missing,) = failures(outcome)
    assert missing.arm == "together"
    assert "NOTES_TOO_FEW" in missing.why
    again = TrainerHere()
    played(lab, again, failing)
    assert again.performed


def test_an_estimate_counts_what_is_left_and_does_nothing(tmp_path: Path) -> None:
    lab, chosen, trainer = Lab(tmp_path), experiment(arms=[ARMS[3], ARMS[4]]), TrainerHere()
    before = estimated(lab, chosen)
    played(lab, trainer, chosen)

    after = estimated(lab, chosen)

    made = [folder for folder in trainer.performed if (folder / RESULT_FILE).exists()]
    assert len(before.pending) == len(made)  # all but the first adapter, which the estimate made, too
    assert (len(after.pending), len(after.done)) == (0, len(made))
    assert all(one.seconds > 0 for one in before.pending.values())


def test_relations_at_sites_with_one_or_both_tasks_are_estimated_like_the_shipped_experiment(tmp_path: Path) -> None:
    shipped = load_experiment(RELATIONS)
    sites = [
        {"name": site.name, "corpus": corpus, "sentences": 8, "tasks": site.tasks}
        for site, corpus in zip(shipped.sites, ("north", "south", "south"), strict=True)
    ]
    terms = {**shipped.terms, "lora": TERMS["lora"]}
    gated = {"name": "gated", "kind": "federated", "terms": {"gate": {"metric": "combined_f1"}}}
    arms = [*(arm.model_dump() for arm in shipped.arms), gated]

    left = estimated(Lab(tmp_path), experiment(sites=sites, terms=terms, arms=arms))

    assert {site for site in ("maccrobat", "chia", "bc5cdr") for one in left.pending.values() if site in one.says} == {
        site.name for site in shipped.sites
    }


def test_what_another_machine_found_is_not_done_again_and_gives_the_same_report(
    lab: Lab, found: Findings, tmp_path: Path
) -> None:
    write_kept(tmp_path / "findings.jsonl", found.kept)
    known, trainer = read_kept([tmp_path / "findings.jsonl"]), TrainerHere()
    again = asyncio.run(play_all(Lab(tmp_path).bench(everything(), lab.workshop(trainer)), known=known))

    assert trainer.performed == []
    assert report(everything(), again) == report(everything(), found)
    assert again.scored == found.scored and again.trained == found.trained


def estimated(lab: Lab, chosen: Experiment) -> EstimatingWorkshop:
    working = lab.workshop(TrainerHere())
    workshop = EstimatingWorkshop(store=lab.store, working=working, rates=measured_rates(lab.store))
    bench: Bench = replace(lab.bench(chosen, working), workshop=workshop)
    assert failures(asyncio.run(play_all(bench))) == []
    return workshop


@pytest.mark.slow
def test_the_command_runs_an_experiment_with_a_trainer_process_and_writes_its_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab = Lab(tmp_path)
    file = tmp_path / "small.toml"
    file.write_text(COMMAND_LINE_EXPERIMENT)
    places = [
        "--data",
        str(lab.root / "corpora"),
        "--base-model",
        str(lab.root / "model"),
        "--out",
        str(tmp_path / "o"),
    ]

    assert run(parse_options(["check", str(file), *places])) == 0
    assert run(parse_options(["run", str(file), *places, "--device", "cpu", "--jobs", "2"])) == 0
    assert run(parse_options(["run", str(file), *places, "--dry-run"])) == 0

    assert "0 cells to do, 0 done" in capsys.readouterr().out  # for its findings are there
    findings, elsewhere = tmp_path / "o" / "small" / "findings.jsonl", [*places[:-1], str(tmp_path / "elsewhere")]
    assert run(parse_options(["report", str(file), *elsewhere])) == 0
    assert "missing: zero, seed 1: not done yet" in capsys.readouterr().out
    assert run(parse_options(["report", str(file), *elsewhere, "--findings", str(findings)])) == 0
    assert "missing" not in capsys.readouterr().out
    file.write_text(COMMAND_LINE_EXPERIMENT.replace("test.sentences = 3", "test.sentences = 4"))
    assert run(parse_options(["report", str(file), *places])) == 0
    file.write_text(COMMAND_LINE_EXPERIMENT)
    assert run(parse_options(["report", str(file), *places])) == 0
    assert "missing" not in capsys.readouterr().out.rpartition("table.tex")[2]  # what was not asked for was not lost
    written = {path.name for path in (tmp_path / "o" / "small").iterdir()}
    assert written == {"findings.jsonl", "numbers.csv", "report.md", "table.tex"}


COMMAND_LINE_EXPERIMENT = """
name = "small"
seeds = [1]
validation_sentences = 3
test.sentences = 3
terms.lora = {lora_rank = 2, lora_alpha = 4, target_modules = ["q_proj", "v_proj"]}
terms.task = {entity_types = ["drug", "problem"], max_new_tokens = 8}
terms.training = {examples_per_round = 4}
terms.rounds.count = 1
terms.gate.metric = "none"

[[sites]]
name = "north"
corpus = "north"
sentences = 4

[[arms]]
name = "zero"
kind = "zero_shot"
"""

"""What `fedmed-lab check` tells of an experiment, and what it refuses before anything is trained."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from common.errors import InputInvalidError
from lab.experiment import Experiment
from lab.findings import Findings
from lab.playing import failures, play_all
from lab.reports import check
from tests.fakes.lab_bench import CORPORA, SITES, Lab, TrainerHere, experiment

TOGETHER = {"name": "together", "kind": "federated"}


def played(lab: Lab, trainer: TrainerHere, chosen: Experiment) -> Findings:
    return asyncio.run(play_all(lab.bench(chosen, lab.workshop(trainer))))


def test_a_validation_set_that_is_also_a_test_set_is_refused(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    corpus = lab.root / "corpora" / CORPORA[0]
    (corpus / "dev.jsonl").write_bytes((corpus / "test.jsonl").read_bytes())

    with pytest.raises(InputInvalidError, match="validation set: expected no passage of a test set"):
        played(lab, TrainerHere(), experiment())


@pytest.mark.parametrize("kind", ["train", "dev", "test"])
def test_ids_that_two_corpora_use_are_told_before_anything_is_trained(tmp_path: Path, kind: str) -> None:
    lab = Lab(tmp_path)
    north, south = (lab.root / "corpora" / name / f"{kind}.jsonl" for name in CORPORA[:2])
    ids = [json.loads(line)["id"] for line in north.read_bytes().splitlines()]
    records = [json.loads(line) for line in south.read_bytes().splitlines()]
    south.write_text("".join(json.dumps({**one, "id": same}) + "\n" for one, same in zip(records, ids, strict=True)))
    whole = [{**site, "sentences": 24} for site in SITES]
    chosen = experiment(
        sites=whole,
        validation_sentences=6,
        test={"sentences": 8, "external": ["abroad"]},
        arms=[TOGETHER, {"name": "centre", "kind": "centralised"}],
    )
    bench = lab.bench(chosen, lab.workshop(TrainerHere()))

    with pytest.raises(InputInvalidError, match="id: expected every passage id once, got that of"):
        list(check(bench))


def test_a_site_that_may_not_train_at_any_rank_of_an_arm_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    lab, trainer = Lab(tmp_path), TrainerHere()
    chosen = experiment(sites=[SITES[0], {**SITES[1], "max_lora_rank": 1}])
    expected = "site south: expected a max_lora_rank of at least 2, the least of these terms, got 1"

    with pytest.raises(InputInvalidError, match=expected):
        list(check(lab.bench(chosen, lab.workshop(trainer))))
    (missing,) = failures(played(lab, trainer, chosen))

    assert missing.why == expected
    assert trainer.performed == []


def test_a_corpus_that_is_not_there_is_named_with_where_it_was_looked_for(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    (lab.root / "corpora" / CORPORA[1] / "test.jsonl").unlink()

    with pytest.raises(InputInvalidError) as refused:
        list(check(lab.bench(experiment(), lab.workshop(TrainerHere()))))

    assert (
        f"expected annotated passages in {CORPORA[1]}/test.jsonl below {lab.root / 'corpora'}" in refused.value.message
    )


def test_a_strategy_that_does_not_go_with_its_terms_is_told_with_the_arm_that_asks_for_it(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    terms = {"aggregation": {"strategy": "krum", "krum": {"byzantine_count": 1}}}
    chosen = experiment(arms=[TOGETHER, {"name": "hardened", "kind": "federated", "terms": terms}])

    with pytest.raises(InputInvalidError, match=r"arm hardened: rounds\.quorum: expected at least"):
        list(check(lab.bench(chosen, lab.workshop(TrainerHere()))))


def test_a_passage_of_a_test_set_that_stands_in_a_training_set_is_left_out_and_told(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    bench = lab.bench(experiment(), lab.workshop(TrainerHere()))
    site = bench.experiment.sites[0]
    corpus = lab.root / "corpora" / CORPORA[0]
    copied = [json.loads(line) for line in bench.notes_of(site, 1).path.read_bytes().splitlines()[:2]]
    others = [json.loads(line) for line in (corpus / "test.jsonl").read_bytes().splitlines()]
    for record, copy in zip(others, copied * len(others), strict=False):
        record.update({name: copy[name] for name in ("text", "entities", "relations")})
    (corpus / "test.jsonl").write_text("".join(json.dumps(record) + "\n" for record in others))

    told = list(check(lab.bench(experiment(), lab.workshop(TrainerHere()))))

    assert any("site north, seed 1" in line and line.endswith("left out that are in a test or validation set")
               for line in told)  # fmt: skip


def test_arms_that_look_for_other_types_are_refused_for_their_gold_is_another(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    arms = [TOGETHER, {"name": "drugs", "kind": "federated", "terms": {"task": {"entity_types": ["drug"]}}}]

    with pytest.raises(InputInvalidError, match=r"arm drugs: task.entity_types: .* drug, problem, got drug$"):
        list(check(lab.bench(experiment(arms=arms), lab.workshop(TrainerHere()))))

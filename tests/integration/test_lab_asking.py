"""Under which digests findings are kept: each thing that they are a function of changes them, and nothing else does."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.ids import digest_of
from lab.arms import Bench
from lab.asking import all_asked
from lab.encoder.arms import EncoderBench
from lab.experiment import Experiment
from tests.fakes.lab_bench import SITES, TERMS, Lab, TrainerHere, experiment

OTHER = digest_of(b"another")
TOGETHER = {"name": "together", "kind": "federated", "terms": {"training": {"weight_decay": 0.1}}}
HALF = {"name": "half", "kind": "federated", "terms": {"aggregation": {"strategy": "ffa_lora"}}}
ARMS: list[dict[str, Any]] = [
    {"name": "zero", "kind": "zero_shot"},
    {"name": "alone", "kind": "single_site"},
    TOGETHER,
    HALF,
    {"name": "best", "kind": "best_of", "of": ["half"]},
]
NEW_SITE = {"corpus": "south", "examples": [2], "continues": ["together"], "training": {"weight_decay": 0.0}}
NORTH = [SITES[0]]  # the other corpora are external and the new site's
FROM_NOTHING, FROM_TOGETHER = "new site, 2 examples, from nothing", "new site, 2 examples, from together"
TRAINED = {"alone", "together", "half", "best"}
EVERYTHING = {"zero", *TRAINED, FROM_NOTHING, FROM_TOGETHER}


def chosen(**tables: object) -> Experiment:
    return experiment(**{"sites": NORTH, "arms": ARMS, "new_site": NEW_SITE, **tables})


def arms_with(name: str, terms: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**arm, "terms": terms} if arm["name"] == name else arm for arm in ARMS]


def bench_of(lab: Lab, asked: Experiment | None = None) -> Bench:
    return lab.bench(asked or chosen(), lab.workshop(TrainerHere()))


def digests(bench: Bench) -> dict[tuple[str, int], str]:
    return {(one.name, one.seed): one.digest for one in all_asked(bench, EncoderBench(bench=bench, works=None))}


def changed(before: dict[tuple[str, int], str], after: dict[tuple[str, int], str]) -> set[str]:
    """The names of those that both ask for, under another digest."""
    return {key[0] for key in before.keys() & after.keys() if before[key] != after[key]}


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(tmp_path_factory.mktemp("lab"))


@pytest.fixture(scope="module")
def before(lab: Lab) -> dict[tuple[str, int], str]:
    found = digests(bench_of(lab))
    assert {name for name, _ in found} == EVERYTHING
    assert len(set(found.values())) == len(found)
    return found


@pytest.mark.parametrize("name", ["weights_digest", "tokenizer_digest", "chat_template_digest"])
def test_another_base_model_changes_all(lab: Lab, before: dict[tuple[str, int], str], name: str) -> None:
    bench = bench_of(lab)
    other = replace(bench.base_model, **{name: OTHER})
    assert changed(before, digests(replace(bench, base_model=other))) == EVERYTHING


@pytest.mark.parametrize(
    ("corpus", "file", "expected"),
    [
        ("north", "train", {*TRAINED, FROM_TOGETHER}),
        ("north", "dev", TRAINED),
        ("north", "test", {"zero", *TRAINED}),
        ("abroad", "test", {"zero", *TRAINED}),
        ("south", "train", {FROM_NOTHING, FROM_TOGETHER}),
        ("south", "test", {FROM_NOTHING, FROM_TOGETHER}),
    ],
)
def test_other_notes_change_what_is_trained_or_scored_on_them(
    before: dict[tuple[str, int], str], tmp_path: Path, corpus: str, file: str, expected: set[str]
) -> None:
    other = Lab(tmp_path)
    path = other.root / "corpora" / corpus / f"{file}.jsonl"
    path.write_bytes(b"".join(reversed(path.read_bytes().splitlines(keepends=True))))
    assert changed(before, digests(bench_of(other))) == expected


@pytest.mark.parametrize(
    "terms",
    [{"aggregation": {"strategy": "fed_medlora_plus"}}, {"gate": {"metric": "combined_f1"}}],
)
def test_another_validation_set_changes_what_goes_on_from_an_adapter_that_was_scored_on_it(
    lab: Lab, tmp_path: Path, terms: dict[str, Any]
) -> None:
    asked = chosen(arms=arms_with("together", terms))
    other = Lab(tmp_path)
    path = other.root / "corpora" / "north" / "dev.jsonl"
    path.write_bytes(b"".join(reversed(path.read_bytes().splitlines(keepends=True))))

    found = changed(digests(bench_of(lab, asked)), digests(bench_of(other, asked)))

    assert found == {*TRAINED, FROM_TOGETHER}


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ({"terms": {**TERMS, "lora": {**TERMS["lora"], "lora_alpha": 8}}}, EVERYTHING),
        ({"terms": {**TERMS, "lora": {**TERMS["lora"], "lora_dropout": 0.0}}}, set()),  # which is the default
        ({"arms": arms_with("together", {"training": {"weight_decay": 0.2}})}, {"together", FROM_TOGETHER}),
        ({"arms": arms_with("half", {"aggregation": {"strategy": "rolora"}})}, {"half", "best"}),
        ({"arms": [{**arm, "score_rounds": arm["name"] == "alone"} for arm in ARMS]}, {"alone"}),
        ({"new_site": {**NEW_SITE, "training": {"weight_decay": 0.3}}}, {FROM_NOTHING, FROM_TOGETHER}),
        ({"new_site": {**NEW_SITE, "local_epochs": 2}}, {FROM_NOTHING, FROM_TOGETHER}),
        ({"new_site": {**NEW_SITE, "examples": [2, 12]}}, {FROM_NOTHING, FROM_TOGETHER}),  # drawn from more notes
        ({"new_site": None}, set()),
        ({"name": "another"}, set()),
        ({"seeds": [1, 2], "arms": ARMS[:3]}, set()),
        ({"sites": [{**SITES[0], "max_lora_rank": 2}]}, {*TRAINED, FROM_TOGETHER}),
    ],
)
def test_other_terms_change_what_they_are_of(
    lab: Lab, before: dict[tuple[str, int], str], tables: dict[str, object], expected: set[str]
) -> None:
    assert changed(before, digests(bench_of(lab, chosen(**tables)))) == expected


def test_what_a_whole_corpus_annotates_changes_what_is_asked_of_relations_alone(lab: Lab, tmp_path: Path) -> None:
    def another_role(file: Path) -> None:
        """In a passage that no test set here has."""
        lines = file.read_bytes().splitlines()
        chosen_ones = {json.loads(line)["id"] for line in test_set.read_bytes().splitlines()}
        index = next(i for i, line in enumerate(lines) if json.loads(line)["id"] not in chosen_ones)
        record = json.loads(lines[index])
        record["relations"] = []
        lines[index] = json.dumps(record).encode()
        file.write_bytes(b"\n".join(lines) + b"\n")

    task = {**TERMS["task"], "relation_types": ["hasAttr"]}
    asked = chosen(new_site=None, arms=[{"name": "related", "kind": "zero_shot", "terms": {"task": task}}])
    test_set = bench_of(lab, asked).tests["north"].path
    other = Lab(tmp_path)
    another_role(other.root / "corpora" / "north" / "test.jsonl")
    of_entities = chosen(new_site=None, arms=ARMS[:1])

    assert changed(digests(bench_of(lab, asked)), digests(bench_of(other, asked))) == {"related"}
    assert changed(digests(bench_of(lab, of_entities)), digests(bench_of(other, of_entities))) == set()


def test_nothing_of_the_machine_changes_them(before: dict[tuple[str, int], str], tmp_path: Path) -> None:
    bench = bench_of(Lab(tmp_path))
    moved: Callable[[Bench], Bench] = lambda one: replace(one, machine=replace(one.machine, device="cuda", threads=9))  # noqa: E731
    assert digests(moved(bench)) == before

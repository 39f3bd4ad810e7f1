"""An experiment's file: what is refused, and the terms that come of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from common.errors import InputInvalidError
from common.ids import digest_of
from common.terms import BaseModelTerms, check_terms
from lab.experiment import load_experiment, terms_of
from tests.fakes.lab_bench import experiment

EXPERIMENTS = sorted((Path(__file__).parents[2] / "benchmarks" / "experiments").glob("*.toml"))
MODEL = BaseModelTerms(
    name="tiny",
    weights_digest=digest_of(b"w"),
    tokenizer_digest=digest_of(b"t"),
    chat_template_digest=digest_of(b"c"),
)

SMALL = """
name = "small"
seeds = [1]

[[sites]]
name = "north"
corpus = "north"
sentences = 8

[test]
sentences = 3

[[arms]]
name = "together"
kind = "federated"
"""


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_shipped_experiment_is_well_formed_and_each_of_its_arms_has_terms(path: Path) -> None:
    shipped = load_experiment(path)

    assert shipped.name == path.stem
    for arm in shipped.arms:
        names = [site.name for site in shipped.sites_of(arm)]
        assert check_terms(terms_of(shipped, arm, 1, names, MODEL)).training.seed == 1


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (("seeds = [1]", "seeds = []"), "seeds: "),
        (("seeds = [1]", "seeds = [1]\nseed = 2"), "seed: unknown key"),
        (("seeds = [1]", 'seeds = [1]\ncompare = [["together", "apart"]]'), "compare: expected arms, got 'apart'"),
        (("seeds = [1]", 'seeds = [1]\ncompare = [["together"]]'), "compare.0"),
        (("seeds = [1]", 'seeds = [1]\ncompare = [["together", "together"]]'), "got 'together' twice"),
        (("sentences = 8", "sentences = 0"), "sites.0.sentences: "),
        (("sentences = 8", 'sentences = "8"'), "sites.0.sentences: "),
        (("sentences = 8", "sentences = 8\npart = [3, 2]"), "part: expected"),
        (("sentences = 8", "sentences = 8\nwrong_labels = 1.5"), "wrong_labels: "),
        (("sentences = 3", 'sentences = 3\nexternal = ["north"]'), "north: expected a corpus that no site holds"),
        (('kind = "federated"', 'kind = "alone"'), "arms.0.kind: "),
        (('kind = "federated"', 'kind = "federated"\nsites = ["south"]'), "got 'south'"),
        (('kind = "federated"', 'kind = "best_of"\nof = ["other"]'), "got 'other'"),
        (('kind = "federated"', 'kind = "best_of"'), "expected `of` with best_of alone"),
        (('corpus = "north"', 'corpus = "../north"'), "sites.0.corpus: "),
        (('name = "north"', 'name = "North!"'), "sites.0.name: "),
    ],
)
def test_a_wrong_file_is_refused_with_what_was_expected(tmp_path: Path, change: tuple[str, str], problem: str) -> None:
    path = tmp_path / "small.toml"
    path.write_text(SMALL.replace(*change))

    with pytest.raises(InputInvalidError) as refused:
        load_experiment(path)

    assert problem in refused.value.message


def test_the_small_file_itself_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(SMALL)

    assert [arm.name for arm in load_experiment(path).arms] == ["together"]


def test_an_arms_terms_are_those_of_the_experiment_with_what_it_says_instead() -> None:
    plus = {"name": "plus", "kind": "federated", "terms": {"aggregation": {"strategy": "fed_medlora_plus"}}}
    chosen = experiment(arms=[plus])

    terms = terms_of(chosen, chosen.arms[0], 5, ["south", "north"], MODEL)

    assert terms.aggregation.strategy == "fed_medlora_plus"
    assert terms.aggregation.fed_medlora_plus is not None
    assert (terms.lora.lora_rank, terms.training.seed) == (2, 5)
    assert (terms.rounds.sites, terms.rounds.quorum, terms.rounds.count) == (("north", "south"), 2, 2)


def test_a_new_sites_terms_are_those_of_the_arm_that_it_goes_on_from_with_its_own_instead() -> None:
    arms = [
        {"name": "first", "kind": "federated", "terms": {"training": {"learning_rate": 0.5, "weight_decay": 0.25}}},
        {"name": "second", "kind": "federated"},
    ]
    own = {"training": {"learning_rate": 0.001}, "from_nothing": {"lora_plus_ratio": 4.0}}
    new_site = {"corpus": "abroad", "examples": [2], "continues": ["first", "second"], **own}
    chosen = experiment(arms=arms, new_site=new_site)

    def training(start: str) -> tuple[float, float, float]:
        terms = terms_of(chosen, chosen.new_site_arm(start), 5, ["north"], MODEL).training
        return terms.learning_rate, terms.weight_decay, terms.lora_plus_ratio

    plain = terms_of(chosen, chosen.arm("second"), 5, ["north"], MODEL).training
    assert training("first") == (0.001, 0.25, plain.lora_plus_ratio)
    assert training("nothing") == (0.001, 0.25, 4.0)
    assert training("second") == (0.001, plain.weight_decay, plain.lora_plus_ratio)
    assert plain.learning_rate == 0.01
    assert chosen.arm("first").terms["training"]["learning_rate"] == 0.5


@pytest.mark.parametrize(
    ("table", "name"),
    [("training", "local_epochs"), ("from_nothing", "local_epochs"), ("from_nothing", "max_empty_share")],
)
def test_all_models_of_a_new_site_train_the_same_examples_as_often(table: str, name: str) -> None:
    new_site = {"corpus": "abroad", "examples": [2], "continues": ["Fed"], table: {name: 2}}

    with pytest.raises(ValidationError, match=f"{table}: expected nothing of {name}, which is the same for all"):
        experiment(new_site=new_site)


def test_terms_with_an_unknown_key_are_refused() -> None:
    wrong = experiment(terms={"training": {"learning_speed": 1}})

    with pytest.raises(InputInvalidError, match=r"training\.learning_speed: unknown key"):
        terms_of(wrong, wrong.arms[0], 1, ["north"], MODEL)

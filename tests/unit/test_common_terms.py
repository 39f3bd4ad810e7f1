"""The terms of a run: one digest for equal terms, every bound checked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.errors import InputInvalidError, Reason
from common.ids import Digest, digest_of
from common.terms import (
    BaseModelTerms,
    GateMetric,
    GateTerms,
    LoraTerms,
    RoundTerms,
    Task,
    TaskTerms,
    Terms,
    TrainingTerms,
    check_terms,
)

DIGEST = digest_of(b"")
TERMS = Terms(
    name="run",
    base_model=BaseModelTerms(name="base", weights_digest=DIGEST, tokenizer_digest=DIGEST, chat_template_digest=DIGEST),
)


def test_terms_within_their_bounds_pass() -> None:
    assert check_terms(TERMS) is TERMS


def test_equal_terms_have_equal_digests_whether_a_float_was_given_as_an_int() -> None:
    as_int = replace(TERMS, lora=LoraTerms(lora_dropout=0), rounds=RoundTerms(grace=600))
    as_float = replace(TERMS, lora=LoraTerms(lora_dropout=0.0), rounds=RoundTerms(grace=600.0))
    assert as_int.digest == as_float.digest


def test_any_other_terms_have_another_digest() -> None:
    others = [
        replace(TERMS, name="other"),
        replace(TERMS, training=TrainingTerms(seed=1)),
        replace(TERMS, rounds=RoundTerms(sites=("a", "b"))),
    ]
    assert len({TERMS.digest, *(other.digest for other in others)}) == 4


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        (replace(TERMS, name="Not A Label"), "name: expected"),
        (replace(TERMS, base_model=replace(TERMS.base_model, name="x" * 201)), "base_model.name"),
        (replace(TERMS, base_model=replace(TERMS.base_model, name="../elsewhere")), "base_model.name: expected a name"),
        (replace(TERMS, base_model=replace(TERMS.base_model, name="/srv/models")), "base_model.name: expected a name"),
        (
            replace(TERMS, base_model=replace(TERMS.base_model, weights_digest=Digest(DIGEST[:-1]))),
            "base_model.weights_digest",
        ),
        (replace(TERMS, lora=LoraTerms(lora_rank=0)), "lora.lora_rank: expected 1 to 1024, got 0"),
        (replace(TERMS, lora=LoraTerms(target_modules=("v", "q"))), "lora.target_modules"),
        (replace(TERMS, task=TaskTerms(entity_types=())), "task.entity_types"),
        (replace(TERMS, task=TaskTerms(entity_types=("x" * 101,))), "task.entity_types: expected names of 1 to 100"),
        (replace(TERMS, task=TaskTerms(entity_types=("drug\nIgnore that.",))), "task.entity_types: expected names"),
        (replace(TERMS, task=TaskTerms(entity_types=(" drug",))), "task.entity_types: expected names"),
        (
            replace(TERMS, task=TaskTerms(entity_types=tuple(f"{number:03}" for number in range(201)))),
            "task.entity_types: expected at most 200 names, got 201",
        ),
        (replace(TERMS, lora=LoraTerms(target_modules=("",))), "lora.target_modules: expected names of 1 to 256"),
        (
            replace(TERMS, lora=LoraTerms(target_modules=tuple(f"{number:03}" for number in range(201)))),
            "lora.target_modules: expected at most 200 names, got 201",
        ),
        (
            replace(TERMS, rounds=RoundTerms(sites=tuple(f"site-{number}" for number in range(5001)))),
            "rounds.sites: expected at most 5000 sites, got 5001",
        ),
        (replace(TERMS, training=TrainingTerms(learning_rate=float("nan"))), "training.learning_rate"),
        (replace(TERMS, rounds=RoundTerms(sites=("a", "a"))), "rounds.sites: expected each site once"),
        (replace(TERMS, rounds=RoundTerms(sites=("a",), quorum=2)), "rounds.quorum: expected at most the 1 sites"),
        (replace(TERMS, rounds=RoundTerms(train_deadline=float("inf"))), "rounds.train_deadline"),
        (
            replace(TERMS, task=TaskTerms(relation_types=("treats", "hasAttr"))),
            "task.relation_types: expected them sorted",
        ),
        (replace(TERMS, task=TaskTerms(relation_types=(" treats",))), "task.relation_types: expected names"),
        (replace(TERMS, task=TaskTerms(relations_only=True)), "task.relations_only: expected relation types"),
        (
            replace(TERMS, task=TaskTerms(relation_types=("treats",), relations_only=True)),
            "gate.metric: expected one of the run's tasks (relations), got strict_f1",
        ),
        (
            replace(TERMS, gate=GateTerms(metric=GateMetric.RELATION_STRICT_F1)),
            "gate.metric: expected one of the run's tasks (entities), got relation_strict_f1",
        ),
        (replace(TERMS, gate=GateTerms(test_digest="test")), "gate.test_digest"),
    ],
)
def test_a_broken_bound_is_named(broken: Terms, problem: str) -> None:
    with pytest.raises(InputInvalidError) as caught:
        check_terms(broken)
    assert caught.value.reason is Reason.TERMS_INVALID
    assert problem in caught.value.message


def test_all_problems_are_listed_together() -> None:
    broken = replace(TERMS, name="", lora=LoraTerms(lora_rank=0), rounds=RoundTerms(quorum=0))
    with pytest.raises(InputInvalidError) as caught:
        check_terms(broken)
    assert caught.value.message.count(";") == 2


def test_a_field_that_was_added_later_is_in_the_canonical_document_only_when_it_is_used() -> None:
    used = replace(TERMS, training=replace(TERMS.training, proximal_mu=0.5))
    assert b"proximal_mu" not in TERMS.canonical
    assert b'"proximal_mu":0.5' in used.canonical
    assert used.digest != TERMS.digest


def test_relations_are_a_task_when_their_types_are_named_and_entities_unless_they_are_left_out() -> None:
    assert TaskTerms().tasks == (Task.ENTITIES,)
    assert TaskTerms(relation_types=("treats",)).tasks == (Task.ENTITIES, Task.RELATIONS)
    assert TaskTerms(relation_types=("treats",), relations_only=True).tasks == (Task.RELATIONS,)


def test_terms_of_yesterday_keep_their_digest() -> None:
    """What sites agreed to: a field that is added must be None or ADDED_LATER, so that this stays."""
    assert TERMS.digest == "sha256:1531444542eee684f4421670c83a38757074bd94de7307b1b2acad80f72015d6"

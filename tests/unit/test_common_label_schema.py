"""The label schema: its types, the pairs it allows, and the check of types that are asked for."""

from __future__ import annotations

import pytest

from common.errors import InputInvalidError, Reason
from common.label_schema import (
    ENTITY_TYPES,
    MODIFIERS_OF,
    RELATION_TYPES,
    TAILS_OF,
    check_entity_types,
    check_task,
    is_allowed_relation,
)
from common.task_terms import TaskTerms


def test_there_are_twenty_types_each_once() -> None:
    assert len(ENTITY_TYPES) == len(set(ENTITY_TYPES)) == 20


def test_every_modifier_of_a_main_type_is_a_type_of_the_schema() -> None:
    assert set().union(*MODIFIERS_OF.values()) <= set(ENTITY_TYPES)


@pytest.mark.parametrize(
    ("relation", "head", "tail", "allowed"),
    [
        ("hasAttr", "problem", "severity", True),
        ("hasAttr", "test", "labvalue", True),
        ("hasAttr", "treatment", "dosage", False),
        ("hasAttr", "severity", "problem", False),
        ("adverse_effect", "drug", "problem", True),
        ("treats", "drug", "problem", True),
        ("treats", "problem", "drug", False),
        ("causes", "drug", "problem", False),
    ],
)
def test_relations_are_allowed_by_type_and_direction(relation: str, head: str, tail: str, allowed: bool) -> None:
    assert is_allowed_relation(relation, head, tail) is allowed


def test_types_asked_for_come_back_sorted_and_once() -> None:
    assert check_entity_types(["test", "drug", "test"]) == ("drug", "test")


@pytest.mark.parametrize("asked", [[], ["drug", "gene"]])
def test_no_types_and_unknown_types_are_refused(asked: list[str]) -> None:
    with pytest.raises(InputInvalidError) as caught:
        check_entity_types(asked)
    assert caught.value.reason is Reason.SETTINGS_UNSUPPORTED


def test_every_relation_type_has_its_heads_and_tails() -> None:
    assert set(TAILS_OF) == set(RELATION_TYPES)
    for heads in TAILS_OF.values():
        assert heads and set(heads) <= set(ENTITY_TYPES)
        assert all(tails and tails <= set(ENTITY_TYPES) for tails in heads.values())


@pytest.mark.parametrize(
    "task",
    [
        TaskTerms(),
        TaskTerms(relation_types=("adverse_effect", "hasAttr", "treats")),
        TaskTerms(entity_types=("test",), relation_types=("hasAttr",)),
        TaskTerms(entity_types=("drug",), relation_types=("adverse_effect",)),  # its tails need not be asked for
        TaskTerms(entity_types=("negation",)),
    ],
)
def test_a_task_that_sites_can_train_passes(task: TaskTerms) -> None:
    check_task(task)


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        (
            TaskTerms(entity_types=("problem", "test"), relation_types=("hasAttr", "treats")),
            "task.relation_types: treats begins at an entity of the type drug; "
            "expected that among task.entity_types, got 'problem, test'",
        ),
        (
            TaskTerms(entity_types=("dosage",), relation_types=("hasAttr",), relations_only=True),
            "hasAttr begins at an entity of the type drug or problem or test or treatment",
        ),
        (TaskTerms(relation_types=("cures",)), "task.relation_types: expected some of adverse_effect, hasAttr, treats"),
        (TaskTerms(entity_types=("drug", "gene")), "got 'gene'"),
    ],
)
def test_a_task_of_which_something_would_never_be_trained_is_refused_in_words(task: TaskTerms, problem: str) -> None:
    with pytest.raises(InputInvalidError) as caught:
        check_task(task)
    assert caught.value.reason is Reason.TERMS_INVALID
    assert problem in caught.value.message

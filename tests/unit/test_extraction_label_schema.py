"""The label schema: its types, the pairs it allows, and the check of types that are asked for."""

from __future__ import annotations

import pytest

from common.errors import InputInvalidError, Reason
from site_agent.trainer.extraction.label_schema import (
    ENTITY_TYPES,
    MODIFIERS_OF,
    check_entity_types,
    is_allowed_relation,
)


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

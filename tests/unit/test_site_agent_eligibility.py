from __future__ import annotations

from dataclasses import replace

import pytest

from common.adapter import FactorSet, WireDtype
from common.errors import Reason
from common.terms import AggregationTerms
from site_agent.domain.assignment import Assignment, InitialiseWork
from site_agent.domain.eligibility import ALLOWED, SitePolicy, judge, judge_spec
from tests.fakes.site_values import (
    EVERY_KIND,
    digest,
    evaluate_assignment,
    make_assignment,
    make_ref,
    make_spec,
    make_terms,
    score_assignment,
    train_assignment,
    with_work,
)


@pytest.mark.parametrize(
    "assignment", [train_assignment(), score_assignment(), evaluate_assignment(), make_assignment(InitialiseWork())]
)
def test_a_site_may_do_what_its_policy_names(assignment: Assignment) -> None:
    assert judge(assignment, EVERY_KIND) == ALLOWED


def test_a_kind_of_work_that_the_policy_lacks_is_declined() -> None:
    decision = judge(train_assignment(), replace(EVERY_KIND, kinds=frozenset({"evaluate"})))
    assert (decision.reason, decision.detail) == (
        Reason.SETTINGS_UNSUPPORTED,
        "kind: expected one of ['evaluate'], got train",
    )


def test_a_strategy_that_the_policy_lacks_is_declined() -> None:
    assignment = train_assignment()
    terms = replace(assignment.terms, aggregation=AggregationTerms(strategy="unheard_of"))
    assert judge(replace(assignment, terms=terms), EVERY_KIND).reason is Reason.SETTINGS_UNSUPPORTED


@pytest.mark.parametrize(("configured", "reason"), [("weights", None), ("others", Reason.BASE_MODEL_MISMATCH)])
def test_the_base_model_is_compared_with_the_one_configured(configured: str, reason: Reason | None) -> None:
    policy = SitePolicy(kinds=EVERY_KIND.kinds, strategies=EVERY_KIND.strategies, weights_digest=digest(configured))
    assert judge(train_assignment(), policy).reason is reason


@pytest.mark.parametrize(
    ("trained", "uploaded", "is_allowed"),
    [
        (FactorSet.A_AND_B, FactorSet.B_ONLY, True),
        (FactorSet.B_ONLY, FactorSet.B_ONLY, True),
        (FactorSet.B_ONLY, FactorSet.A_AND_B, False),
        (FactorSet.A_ONLY, FactorSet.B_ONLY, False),
    ],
)
def test_only_what_is_trained_may_travel(trained: FactorSet, uploaded: FactorSet, is_allowed: bool) -> None:
    assignment = with_work(train_assignment(), trained=trained, uploaded=uploaded)
    assert judge(assignment, EVERY_KIND).is_allowed is is_allowed


def test_an_adapter_of_another_shape_than_it_says_is_declined() -> None:
    other = make_spec(width=8)
    ref = replace(make_ref(make_spec()), size_bytes=other.data_bytes + 500)
    decision = judge(with_work(train_assignment(), adapter_spec=other, global_adapter=ref), EVERY_KIND)
    assert decision.detail.startswith(f"adapter specification: expected digest {other.digest}")


@pytest.mark.parametrize("size_bytes", [0, make_spec().data_bytes, 10**12])
def test_an_adapter_file_of_an_impossible_size_is_declined_before_a_byte_is_fetched(size_bytes: int) -> None:
    ref = replace(make_ref(make_spec()), size_bytes=size_bytes)
    decision = judge(with_work(train_assignment(), global_adapter=ref), EVERY_KIND)
    assert (decision.reason, decision.detail.startswith("adapter file: expected")) == (
        Reason.SETTINGS_UNSUPPORTED,
        True,
    )


@pytest.mark.parametrize(
    "changes", [{"lora_rank": 3}, {"lora_alpha": 16}, {"target_modules": ("k_proj",)}, {"dtype": WireDtype.F32}]
)
def test_an_adapter_that_differs_from_the_terms_is_not_theirs(changes: dict[str, object]) -> None:
    spec = replace(make_spec(), **changes)  # type: ignore[arg-type]
    assert judge_spec(spec, make_terms()).reason is Reason.SETTINGS_UNSUPPORTED


def test_an_adapter_as_in_the_terms_is_theirs() -> None:
    assert judge_spec(make_spec(), make_terms()) == ALLOWED

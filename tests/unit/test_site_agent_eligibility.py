from __future__ import annotations

from dataclasses import replace

import pytest

from common.adapter import MAX_LORA_RANK, FactorSet, WireDtype
from common.errors import Reason
from common.strategy_terms import FloraTerms
from common.terms import AggregationTerms
from site_agent.domain.assignment import Assignment, InitialiseWork
from site_agent.domain.decision import ALLOWED
from site_agent.domain.eligibility import judge, judge_spec
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
    assert judge(replace(assignment, terms=terms), EVERY_KIND).reason is Reason.POLICY_FORBIDS


@pytest.mark.parametrize(("configured", "reason"), [("weights", None), ("others", Reason.BASE_MODEL_MISMATCH)])
def test_the_base_model_is_compared_with_the_one_configured(configured: str, reason: Reason | None) -> None:
    policy = replace(EVERY_KIND, weights_digest=digest(configured))
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


def at_rank(rank: int, least: int, published: int | None = None) -> Assignment:
    """Terms of the rank 4 that let sites train from ``least`` on, and this site asked to train at ``rank``."""
    assignment, spec = train_assignment(), make_spec().at_rank(rank)
    lora = replace(assignment.terms.lora, lora_rank=4, least_lora_rank=least)
    aggregation = assignment.terms.aggregation
    if published is not None:
        aggregation = replace(aggregation, strategy="flora", flora=FloraTerms(published_rank=published))
    terms = replace(assignment.terms, lora=lora, aggregation=aggregation)
    return with_work(replace(assignment, terms=terms), adapter_spec=spec, global_adapter=make_ref(spec))


@pytest.mark.parametrize(
    ("rank", "least", "most", "is_allowed"),
    [(4, 0, 0, True), (3, 0, 0, False), (3, 2, 0, True), (1, 2, 0, False), (4, 2, 3, False), (3, 2, 3, True)],
)
def test_a_site_trains_between_the_least_rank_of_the_terms_and_its_own_largest(
    rank: int, least: int, most: int, is_allowed: bool
) -> None:
    decision = judge(at_rank(rank, least), replace(EVERY_KIND, max_lora_rank=most or MAX_LORA_RANK))
    assert decision.is_allowed is is_allowed
    assert is_allowed or decision.detail.startswith("lora_rank: expected")


@pytest.mark.parametrize(("rank", "is_allowed"), [(8, True), (9, False)])
def test_what_is_added_beside_is_an_adapter_of_the_terms_of_the_published_rank_at_most(
    rank: int, is_allowed: bool
) -> None:
    side = make_spec().at_rank(rank)
    policy = replace(EVERY_KIND, strategies=frozenset({"flora"}))
    assignment = with_work(at_rank(4, 0, published=8), side=(make_ref(side), side))
    assert judge(assignment, policy).is_allowed is is_allowed
    foreign = replace(side, tensors=side.tensors[:2])
    assert not judge(with_work(assignment, side=(make_ref(foreign), foreign)), policy).is_allowed


@pytest.mark.parametrize(("rank", "is_allowed"), [(8, True), (4, False)])
def test_a_candidate_has_the_published_rank(rank: int, is_allowed: bool) -> None:
    spec = make_spec().at_rank(rank)
    terms = at_rank(4, 0, published=8).terms
    assignment = with_work(replace(evaluate_assignment(), terms=terms), adapter_spec=spec, candidate=make_ref(spec))
    assert judge(assignment, EVERY_KIND).is_allowed is is_allowed

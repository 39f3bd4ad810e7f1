"""Whatever a coordinator changes in the terms or the assignment beyond the site's policy is refused, field by field.

The fields are walked as they are declared: one that is added later fails here until somebody says what it means.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.adapter import FactorSet, WireDtype
from common.errors import Reason
from common.ids import AssignmentId, RunId
from common.terms import STRATEGIES_WITH_PARAMETERS, AggregationTerms, Terms
from coordinator.domain.aggregation import STRATEGIES, strategy_of
from coordinator.domain.aggregation.strategy import Need
from site_agent.domain.assignment import (
    Assignment,
    EvaluateWork,
    InitialiseWork,
    ScoreWork,
    TrainWork,
)
from site_agent.domain.decision import ALLOWED
from site_agent.domain.eligibility import judge
from site_agent.domain.policy import SitePolicy
from site_agent.domain.term_rules import RULES, SCORED_STRATEGIES, By, every_field, judge_terms
from tests.fakes.coordinator_strategies import aggregation_of
from tests.fakes.site_policies import policy_for
from tests.fakes.site_values import (
    RANK,
    digest,
    evaluate_assignment,
    make_assignment,
    make_ref,
    make_spec,
    score_assignment,
    train_assignment,
    with_work,
)

WRITE_A_RULE = (
    "write a rule in RULES of site_agent/domain/term_rules.py: what the field says to a person at a hospital, and "
    "which part of the site's policy bounds it; explain the key in docker/config/policy.example.toml"
)
DEFAULTS = dict(every_field())
PATHS = list(DEFAULTS)


def terms_with(path: str) -> Terms:
    """Terms in which the field at ``path`` is there: those of its strategy, if it is a strategy's parameter."""
    terms = train_assignment().terms
    strategy = path.split(".")[1] if path.count(".") > 1 else "fed_medlora"
    return replace(terms, aggregation=aggregation_of(strategy) if strategy in STRATEGIES else AggregationTerms())


@cache
def narrow_policy(path: str) -> SitePolicy:
    """The policy, from its file, that lets in the terms with that field and no others."""
    with TemporaryDirectory() as folder:
        return policy_for(Path(folder), terms_with(path))


def value_at(section: Any, path: str) -> Any:
    name, _, rest = path.partition(".")
    value = getattr(section, name)
    return value_at(value, rest) if rest else value


def with_value(section: Any, path: str, value: Any) -> Any:
    name, _, rest = path.partition(".")
    return replace(section, **{name: with_value(getattr(section, name), rest, value) if rest else value})


def others_than(value: Any) -> st.SearchStrategy[Any]:
    """Values of the same type, and of none like it."""
    match value:
        case bool():
            return st.just(not value)
        case int():
            return st.integers(max(value, RANK) + 1, 2**53)  # a least rank within the site's own bound widens nothing
        case float():
            return st.one_of(st.floats(1e-9, 1e9).filter(lambda other: other != value), st.just(math.inf))
        case StrEnum():
            return st.sampled_from([member for member in type(value) if member is not value])
        case str():
            return st.text(min_size=1, max_size=80).map(lambda text: f"other {text}")
        case tuple():
            return st.text(min_size=1, max_size=20).map(lambda text: (*value, f"other {text}"))
    raise AssertionError(f"a field of type {type(value)} in the terms: say here how it is widened, and {WRITE_A_RULE}")


@pytest.mark.parametrize("path", PATHS)
def test_every_field_of_the_terms_has_a_rule(path: str) -> None:
    assert path in RULES, f"{path}: {WRITE_A_RULE}"
    assert "{}" in RULES[path].words, f"{path}: the words do not say the value"
    assert (RULES[path].by is By.NOBODY) == bool(RULES[path].why), f"{path}: say why nobody judges it"


def test_no_rule_is_for_a_field_that_is_not_there() -> None:
    assert set(RULES) == set(PATHS)


@pytest.mark.parametrize("path", [path for path in PATHS if RULES[path].by is not By.NOBODY])
@settings(max_examples=12)
@given(data=st.data())
def test_terms_beyond_the_policy_are_refused_whichever_field_is_widened(path: str, data: st.DataObject) -> None:
    terms, policy = terms_with(path), narrow_policy(path)
    assignment = replace(train_assignment(), terms=terms)
    assert judge(assignment, policy) == ALLOWED, "the run that the policy is for"

    widened = with_value(terms, path, data.draw(others_than(value_at(terms, path))))

    decision = judge(replace(assignment, terms=widened), policy)
    assert decision.reason is Reason.POLICY_FORBIDS
    assert path in {each.path for each in judge_terms(widened, policy, is_trained=True) if not each.is_allowed}


@pytest.mark.parametrize("path", [path for path in PATHS if RULES[path].by is By.BOUND])
@settings(max_examples=12)
@given(data=st.data())
def test_a_field_that_the_policy_does_not_name_must_have_its_default(path: str, data: st.DataObject) -> None:
    terms = with_value(terms_with(path), path, data.draw(others_than(DEFAULTS[path])))
    policy = replace(narrow_policy(path), terms={})
    verdicts = {each.path: each for each in judge_terms(terms, policy, is_trained=True)}
    assert not verdicts[path].is_allowed
    assert "default" in verdicts[path].expected


def test_parameters_of_a_strategy_that_the_policy_lacks_come_with_a_strategy_that_it_lacks() -> None:
    policy = narrow_policy("name")
    for strategy in STRATEGIES_WITH_PARAMETERS:
        terms = replace(terms_with("name"), aggregation=aggregation_of(strategy))
        assert judge(replace(train_assignment(), terms=terms), policy).reason is Reason.POLICY_FORBIDS


def test_a_field_without_a_rule_is_refused_even_without_a_written_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = replace(narrow_policy("name"), terms=None)
    monkeypatch.setattr(
        "site_agent.domain.term_rules.RULES", {path: rule for path, rule in RULES.items() if path != "training.seed"}
    )
    verdict = next(each for each in judge_terms(terms_with("name"), policy, is_trained=True) if not each.is_allowed)
    assert verdict.path == "training.seed"


def test_the_strategies_that_are_told_to_show_updates_to_an_evaluator_are_those_that_do() -> None:
    terms = {name: replace(terms_with("name"), aggregation=aggregation_of(name)) for name in STRATEGIES}
    assert {name for name in terms if Need.UPDATE_SCORES in strategy_of(terms[name]).needs} == SCORED_STRATEGIES


# The assignment and its work. Each field has an attack that is refused, or cannot widen anything and says why.

Attack = Callable[[Assignment], Assignment]
SPEC = make_spec()


def _with_spec(assignment: Assignment, **changes: Any) -> Assignment:
    spec = replace(SPEC, **changes)
    name = next(name for name in ("global_adapter", "update", "candidate") if hasattr(assignment.work, name))
    return with_work(assignment, adapter_spec=spec, **{name: make_ref(spec)})


def _wider_tensors(assignment: Assignment) -> Assignment:
    tensors = tuple(replace(each, shape=tuple(side * 3 for side in each.shape)) for each in SPEC.tensors)
    return _with_spec(assignment, tensors=tensors)


def _larger_file(name: str) -> Attack:
    ref = replace(make_ref(SPEC), size_bytes=2**40)
    return lambda assignment: with_work(assignment, **{name: ref})


ATTACKS: dict[tuple[type, str], Attack | str] = {
    (Assignment, "assignment_id"): "a name",
    (Assignment, "run_id"): "a name",
    (Assignment, "round_number"): lambda one: replace(one, round_number=one.terms.rounds.count + 1),
    (Assignment, "terms"): lambda one: replace(one, terms=with_value(one.terms, "lora.lora_rank", 1024)),
    (Assignment, "deadline_at"): "for people; nothing at a site acts on it",
    (Assignment, "work"): lambda one: make_assignment(ScoreWork(update=make_ref(SPEC), adapter_spec=SPEC)),
    (TrainWork, "global_adapter"): _larger_file("global_adapter"),
    (TrainWork, "adapter_spec"): _wider_tensors,
    (TrainWork, "trained"): lambda one: with_work(one, trained=FactorSet.B_ONLY),
    (TrainWork, "uploaded"): lambda one: with_work(one, trained=FactorSet.A_ONLY),
    (TrainWork, "side"): lambda one: with_work(one, side=(replace(make_ref(SPEC), size_bytes=2**40), SPEC)),
    (TrainWork, "own"): lambda one: with_work(
        one, trained=FactorSet.B_ONLY, uploaded=FactorSet.B_ONLY, own=FactorSet.A_ONLY
    ),
    (TrainWork, "asks_given_under"): "what may be said of the policy is the policy's own to say (`egress.given_under`)",
    (ScoreWork, "update"): _larger_file("update"),
    (ScoreWork, "adapter_spec"): lambda one: _with_spec(one, dtype=WireDtype.F32),
    (EvaluateWork, "candidate"): _larger_file("candidate"),
    (EvaluateWork, "adapter_spec"): lambda one: _with_spec(one, lora_alpha=999),
}
ASSIGNMENTS: dict[type, Callable[[], Assignment]] = {
    Assignment: train_assignment,
    InitialiseWork: lambda: make_assignment(InitialiseWork()),
    TrainWork: train_assignment,
    ScoreWork: score_assignment,
    EvaluateWork: evaluate_assignment,
}


@pytest.mark.parametrize("kind", ASSIGNMENTS, ids=lambda kind: kind.__name__)
def test_every_field_of_an_assignment_has_an_attack(kind: type) -> None:
    for each in dataclasses.fields(kind):
        assert (kind, each.name) in ATTACKS, (
            f"{kind.__name__}.{each.name} is new: let site_agent/domain/eligibility.py refuse what goes beyond the "
            "policy, and write the attack here; or write why it cannot widen anything"
        )


@pytest.mark.parametrize(("kind", "field"), ATTACKS, ids=lambda part: getattr(part, "__name__", part))
def test_an_assignment_beyond_the_policy_is_refused(kind: type, field: str, tmp_path: Path) -> None:
    assignment = ASSIGNMENTS[kind]()
    policy = policy_for(tmp_path, assignment.terms)
    if kind is Assignment:
        policy = replace(policy, kinds=frozenset({"train"}))
    policy = replace(policy, egress=replace(policy.egress, max_side=6))
    assert judge(assignment, policy) == ALLOWED
    attack = ATTACKS[kind, field]
    if isinstance(attack, str):
        changed = replace(assignment, assignment_id=AssignmentId("f" * 32), run_id=RunId("f" * 32), deadline_at=1e300)
        assert judge(changed, policy) == ALLOWED, attack
    else:
        assert judge(attack(assignment), policy).reason in (Reason.POLICY_FORBIDS, Reason.SETTINGS_UNSUPPORTED)


def test_what_may_leave_is_judged_before_hours_of_training(tmp_path: Path) -> None:
    policy = policy_for(tmp_path, train_assignment().terms)
    only_b = replace(policy, egress=replace(policy.egress, tensors=("*.lora_B.weight",)))
    assert judge(train_assignment(), only_b).reason is Reason.POLICY_FORBIDS
    assert judge(with_work(train_assignment(), uploaded=FactorSet.B_ONLY), only_b) == ALLOWED
    silent = replace(policy, egress=replace(policy.egress, metrics=frozenset({"num_examples"})))
    assert judge(train_assignment(), silent).reason is Reason.POLICY_FORBIDS


def test_half_of_one_base_model_and_half_of_another_is_neither() -> None:
    policy = narrow_policy("name")
    terms = with_value(terms_with("name"), "base_model.tokenizer_digest", digest("another tokenizer"))
    assert judge(replace(train_assignment(), terms=terms), policy).reason is Reason.POLICY_FORBIDS

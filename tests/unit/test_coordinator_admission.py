"""What an answer may say of itself, and why an assignment is dead."""

from __future__ import annotations

from dataclasses import replace

import pytest

from common.adapter import FactorSet, TensorSpec, WireDtype, check_spec
from common.errors import (
    FedMedError,
    InputInvalidError,
    NotAllowedError,
    NotFoundError,
    NotNowError,
    Reason,
    UpdateRefusedError,
)
from common.ids import AssignmentId, SiteName
from common.terms import AdmissionTerms, GateMetric, GateTerms, LoraTerms
from coordinator.domain import events as ev
from coordinator.domain.admission import (
    ClaimedUpdate,
    check_claim,
    check_first_adapter,
    check_gate_metric,
    check_scores,
    check_size,
    explain_dead_assignment,
    max_update_bytes,
)
from coordinator.domain.cohort import evaluate_assignment_id, initialise_assignment_id
from coordinator.domain.values import DeadlineName, F1Score, Run, Scores
from tests.fakes.coordinator_values import (
    ANNA,
    BERTA,
    CLARA,
    EVALUATOR,
    RUN_ID,
    accepted,
    after,
    at,
    digest,
    evaluating_run,
    make_scores,
    make_spec,
    make_terms,
    new_run,
    scored,
    selecting_run,
    train_id,
    training_run,
)

TERMS = make_terms()
BASE = digest("base")
CLAIM = ClaimedUpdate(size_bytes=100, base_digest=BASE, num_examples=10, num_label_tokens=100)


def refusal_of(claim: ClaimedUpdate, max_bytes: int = 1000) -> UpdateRefusedError:
    with pytest.raises(UpdateRefusedError) as refused:
        check_claim(TERMS, claim, BASE, max_bytes)
    return refused.value


def test_an_honest_claim_passes() -> None:
    check_claim(TERMS, CLAIM, BASE, max_bytes=100)


def test_an_update_trained_from_another_adapter_is_refused() -> None:
    assert refusal_of(replace(CLAIM, base_digest=digest("older"))).reason is Reason.UPDATE_BASE_DIFFERS


@pytest.mark.parametrize("size_bytes", [-1, 0, 1001, 2**62])
def test_a_size_out_of_bounds_is_refused(size_bytes: int) -> None:
    assert refusal_of(replace(CLAIM, size_bytes=size_bytes)).reason is Reason.UPDATE_TOO_LARGE
    with pytest.raises(UpdateRefusedError):
        check_size(size_bytes, 1000)


@pytest.mark.parametrize("num_examples", [-(10**9), -1, 0, 10_000_001, 2**62])
def test_an_absurd_count_of_examples_is_refused(num_examples: int) -> None:
    refusal = refusal_of(replace(CLAIM, num_examples=num_examples))
    assert refusal.reason is Reason.UPDATE_COUNT_ABSURD
    assert refusal.message == f"num_examples: expected 1 to 10000000, got {num_examples}"


@pytest.mark.parametrize("num_label_tokens", [-(10**9), -1, 0, 10 * 131_072 + 1, 2**62])
def test_an_absurd_count_of_label_tokens_is_refused(num_label_tokens: int) -> None:
    refusal = refusal_of(replace(CLAIM, num_label_tokens=num_label_tokens))
    assert refusal.reason is Reason.UPDATE_COUNT_ABSURD
    assert refusal.message == f"num_label_tokens: expected 1 to {10 * 131_072}, got {num_label_tokens}"


@pytest.mark.parametrize(("num_examples", "num_label_tokens"), [(1, 1), (50, 600)])
def test_counts_at_the_bounds_of_the_terms_pass(num_examples: int, num_label_tokens: int) -> None:
    terms = replace(TERMS, admission=AdmissionTerms(max_num_examples=50, max_num_label_tokens=600))
    claim = replace(CLAIM, num_examples=num_examples, num_label_tokens=num_label_tokens)
    check_claim(terms, claim, BASE, max_bytes=1000)


@pytest.mark.parametrize(("num_examples", "num_label_tokens"), [(51, 600), (50, 601)])
def test_counts_above_the_bounds_of_the_terms_are_refused(num_examples: int, num_label_tokens: int) -> None:
    terms = replace(TERMS, admission=AdmissionTerms(max_num_examples=50, max_num_label_tokens=600))
    claim = replace(CLAIM, num_examples=num_examples, num_label_tokens=num_label_tokens)
    with pytest.raises(UpdateRefusedError) as refused:
        check_claim(terms, claim, BASE, max_bytes=1000)
    assert refused.value.reason is Reason.UPDATE_COUNT_ABSURD


def test_the_largest_update_is_its_data_and_a_bounded_header() -> None:
    spec = make_spec(modules=2)
    assert spec.data_bytes < max_update_bytes(spec, spec.tensors) < spec.data_bytes + 10_000


def test_an_update_of_one_factor_may_be_only_so_large() -> None:
    spec = make_spec(modules=2, width=4096)
    half = max_update_bytes(spec, spec.tensors_of(FactorSet.B_ONLY))
    assert half < 0.6 * max_update_bytes(spec, spec.tensors)


# The first adapter


def test_a_first_adapter_of_the_terms_own_shape_passes() -> None:
    assert check_first_adapter(TERMS, make_spec()) == make_spec()


@pytest.mark.parametrize(
    ("name", "lora"),
    [
        ("lora_rank", LoraTerms(lora_rank=4, lora_alpha=8, target_modules=("q_proj", "v_proj"))),
        ("lora_alpha", LoraTerms(lora_rank=2, lora_alpha=9, target_modules=("q_proj", "v_proj"))),
        ("target_modules", LoraTerms(lora_rank=2, lora_alpha=8, target_modules=("q_proj",))),
    ],
)
def test_a_first_adapter_that_differs_from_the_terms_is_refused_by_field(name: str, lora: LoraTerms) -> None:
    with pytest.raises(UpdateRefusedError, match=f"^{name}: expected") as refused:
        check_first_adapter(replace(TERMS, lora=lora), make_spec())
    assert refused.value.reason is Reason.SPEC_INVALID


@pytest.mark.parametrize("module", ["layers.0.k_proj", "layers.0.not_q_proj", "q_proj.layers", "layers.0.q_proj.base"])
def test_a_first_adapter_of_other_modules_than_those_targeted_is_refused(module: str) -> None:
    factors = ((".lora_A.weight", (2, 6)), (".lora_B.weight", (6, 2)))
    tensors = tuple(TensorSpec(name=module + suffix, shape=shape) for suffix, shape in factors)
    with pytest.raises(UpdateRefusedError, match="expected target modules alone") as refused:
        check_first_adapter(TERMS, check_spec(replace(make_spec(), tensors=tensors)))
    assert refused.value.reason is Reason.SPEC_INVALID


@pytest.mark.parametrize("module", ["q_proj", "layers.0.self_attn.v_proj"])
def test_a_module_is_targeted_as_peft_does_it(module: str) -> None:
    factors = ((".lora_A.weight", (2, 6)), (".lora_B.weight", (6, 2)))
    tensors = tuple(TensorSpec(name=module + suffix, shape=shape) for suffix, shape in factors)
    spec = replace(make_spec(), tensors=tensors)
    assert check_first_adapter(TERMS, spec) == spec


def test_a_specification_of_more_parameters_than_any_adapter_has_is_refused() -> None:
    def tensors(modules: int) -> tuple[TensorSpec, ...]:
        factors = ((".lora_A.weight", (1024, 2**20)), (".lora_B.weight", (2**20, 1024)))
        return tuple(
            TensorSpec(name=f"layers.{number}.q_proj{suffix}", shape=shape)
            for number in range(modules)
            for suffix, shape in factors
        )

    largest = replace(make_spec(), lora_rank=1024, tensors=tensors(2))
    assert check_spec(largest).parameters == 2**32
    with pytest.raises(InputInvalidError, match="expected at most 4294967296 parameters") as refused:
        check_spec(replace(largest, tensors=tensors(3)))
    assert refused.value.reason is Reason.SPEC_INVALID


def test_a_first_adapter_in_another_dtype_is_refused() -> None:
    with pytest.raises(UpdateRefusedError, match="dtype: expected bf16, got f32") as refused:
        check_first_adapter(TERMS, make_spec(dtype=WireDtype.F32))
    assert refused.value.reason is Reason.SPEC_INVALID


def test_a_specification_whose_factors_interleave_is_refused() -> None:
    names = ["m.lora_A.weight", "m.lora_AB.lora_A.weight", "m.lora_AB.lora_B.weight", "m.lora_B.weight"]
    tensors = tuple(TensorSpec(name=name, shape=(2, 2)) for name in names)
    with pytest.raises(InputInvalidError, match="followed by its B") as refused:
        check_spec(replace(make_spec(), tensors=tensors))
    assert refused.value.reason is Reason.SPEC_INVALID


# Scores


def reason_of(scores: Scores) -> Reason:
    with pytest.raises(InputInvalidError) as refused:
        check_scores(scores)
    return refused.value.reason


def test_honest_scores_pass() -> None:
    check_scores(make_scores())
    check_gate_metric(TERMS, make_scores())


@pytest.mark.parametrize("mean_loss", [float("nan"), float("inf"), -float("inf"), -0.1])
def test_a_loss_that_is_no_finite_positive_number_is_refused(mean_loss: float) -> None:
    assert reason_of(replace(make_scores(), mean_loss=mean_loss)) is Reason.METRIC_NOT_FINITE


def test_scores_of_no_example_are_refused() -> None:
    assert reason_of(replace(make_scores(), num_examples=0)) is Reason.FIELD_INVALID


@pytest.mark.parametrize("counts", [(6, 5, 10), (6, 10, 5), (-1, 5, 5)])
@pytest.mark.parametrize("which", ["strict", "lenient"])
def test_impossible_f1_counts_are_refused(which: str, counts: tuple[int, int, int]) -> None:
    f1 = F1Score(true_positives=counts[0], predicted=counts[1], gold=counts[2])
    scores = replace(make_scores(), strict=f1) if which == "strict" else replace(make_scores(), lenient=f1)
    assert reason_of(scores) is Reason.FIELD_INVALID


@pytest.mark.parametrize("metric", [GateMetric.STRICT_F1, GateMetric.LENIENT_F1])
def test_scores_without_what_the_gate_compares_are_refused(metric: GateMetric) -> None:
    with pytest.raises(InputInvalidError) as refused:
        check_gate_metric(make_terms(gate=GateTerms(metric=metric)), replace(make_scores(), strict=None, lenient=None))
    assert refused.value.reason is Reason.METRIC_MISSING


@pytest.mark.parametrize("metric", [GateMetric.NONE, GateMetric.LOSS])
def test_a_gate_that_compares_no_f1_takes_scores_without_one(metric: GateMetric) -> None:
    check_gate_metric(make_terms(gate=GateTerms(metric=metric)), replace(make_scores(), strict=None, lenient=None))


# Dead assignments

ABORT = ev.AbortRequested(at=at(50))
TRAIN_PASSED = ev.DeadlinePassed(at=at(1000), name=DeadlineName.TRAIN)


def explained(run: Run, caller: SiteName, wanted: AssignmentId) -> FedMedError:
    with pytest.raises(FedMedError) as dead:
        explain_dead_assignment((run,), caller, wanted)
    return dead.value


def test_an_assignment_of_another_site_is_not_yours() -> None:
    error = explained(training_run(), BERTA, train_id(ANNA))
    assert (type(error), error.reason) == (NotAllowedError, Reason.ASSIGNMENT_NOT_YOURS)


def test_an_assignment_that_never_was_is_unknown() -> None:
    error = explained(training_run(), ANNA, train_id(ANNA, 7))
    assert (type(error), error.reason) == (NotFoundError, Reason.ASSIGNMENT_UNKNOWN)


def test_an_answered_assignment_of_the_open_round_is_already_answered() -> None:
    error = explained(after(training_run(), accepted(ANNA)), ANNA, train_id(ANNA))
    assert (type(error), error.reason) == (NotNowError, Reason.ALREADY_ANSWERED)


@pytest.mark.parametrize("later", [(), (accepted(BERTA), accepted(CLARA)), (ABORT,)], ids=["now", "past", "aborted"])
def test_a_refused_assignment_gives_its_refusal_again(later: tuple[ev.RunEvent, ...]) -> None:
    refusal = ev.AnswerRefused(at=at(5), assignment_id=train_id(ANNA), by=ANNA, reason=Reason.UPDATE_NOT_FINITE)
    error = explained(after(training_run(), refusal, *later), ANNA, train_id(ANNA))
    assert (type(error), error.reason) == (UpdateRefusedError, Reason.UPDATE_NOT_FINITE)


def test_a_straggler_is_told_that_the_round_closed_and_not_that_it_answered() -> None:
    run = after(training_run(), accepted(ANNA), accepted(BERTA), TRAIN_PASSED)
    assert explained(run, CLARA, train_id(CLARA)).reason is Reason.ROUND_CLOSED


def test_an_assignment_of_a_past_round_is_closed_even_if_it_was_answered() -> None:
    run = after(evaluating_run(), scored())
    assert run.current is not None
    assert explained(run, ANNA, train_id(ANNA)).reason is Reason.ROUND_CLOSED


def test_an_assignment_of_an_ended_run_says_so() -> None:
    assert explained(after(training_run(), ABORT), ANNA, train_id(ANNA)).reason is Reason.RUN_ENDED


def test_an_evaluators_past_assignment_is_closed() -> None:
    run = after(evaluating_run(), scored())
    wanted = evaluate_assignment_id(RUN_ID, 1, EVALUATOR)
    assert explained(run, EVALUATOR, wanted).reason is Reason.ROUND_CLOSED


def test_an_evaluators_first_adapter_after_anothers_is_closed() -> None:
    wanted = initialise_assignment_id(RUN_ID, EVALUATOR)
    assert explained(selecting_run(), EVALUATOR, wanted).reason is Reason.ROUND_CLOSED


def test_an_evaluators_assignment_of_an_aborted_run_says_so() -> None:
    wanted = initialise_assignment_id(RUN_ID, EVALUATOR)
    assert explained(after(new_run(), ABORT), EVALUATOR, wanted).reason is Reason.RUN_ENDED


def test_an_evaluators_assignment_is_unknown_to_a_site() -> None:
    error = explained(evaluating_run(), ANNA, evaluate_assignment_id(RUN_ID, 1, EVALUATOR))
    assert error.reason is Reason.ASSIGNMENT_UNKNOWN

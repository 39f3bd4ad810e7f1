"""What the site's own policy lets out: tensors, bytes, norms and counts, and nothing that it does not name."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.adapter import TensorSpec, WireDtype
from common.errors import Reason, UpdateRefusedError
from common.weights_io import write_weights
from site_agent.adapters.update_file import measure_move
from site_agent.app.answers import evaluation_scores
from site_agent.domain.decision import ALLOWED
from site_agent.domain.egress import FileLayout, judge_counts, judge_norm, judge_tensors
from site_agent.domain.policy import AS_ASKED, METRICS
from site_agent.orders import EvaluateResult, F1Counts
from tests.fakes.site_values import EVERY_KIND, make_spec

SPEC = make_spec()
LAYOUT = FileLayout(tensors=SPEC.tensors, dtypes=frozenset({"bf16"}), metadata=frozenset(), stray_bytes=0)
NARROW = replace(
    AS_ASKED,
    tensors=("base_model.model.*.lora_A.weight", "base_model.model.*.lora_B.weight"),
    max_side=6,
    dtypes=frozenset({"bf16"}),
    max_bytes=1000,
    max_norm=2.0,
    smallest_cell=5,
    min_examples=20,
)
POLICY = replace(EVERY_KIND, egress=NARROW, max_lora_rank=2)


def test_an_update_within_the_policy_may_leave() -> None:
    assert judge_tensors(LAYOUT, 1000, POLICY) == ALLOWED


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (TensorSpec(name="base_model.model.embed.weight", shape=(2, 6)), "expected names like"),
        (TensorSpec(name="xbase_model.model.q.lora_A.weight", shape=(2, 6)), "expected names like"),
        (TensorSpec(name="base_model.model.q.lora_A.weight.x", shape=(2, 6)), "expected names like"),
        (TensorSpec(name="base_model.model.q.lora_A.weight", shape=(2, 7)), "at most 2 by 6"),
        (TensorSpec(name="base_model.model.q.lora_A.weight", shape=(3, 6)), "at most 2 by 6"),
    ],
)
def test_a_tensor_of_another_name_or_shape_stays(tensor: TensorSpec, said: str) -> None:
    decision = judge_tensors(replace(LAYOUT, tensors=(tensor,)), 1, POLICY)
    assert decision.reason is Reason.EGRESS_DENIED
    assert said in decision.detail


def test_too_many_bytes_or_another_dtype_stay() -> None:
    assert judge_tensors(LAYOUT, 1001, POLICY).detail == "bytes: expected at most 1000, got 1001"
    assert judge_tensors(replace(LAYOUT, dtypes=frozenset({"f32"})), 1, POLICY).reason is Reason.EGRESS_DENIED


@pytest.mark.parametrize(("norm", "is_allowed"), [(2.0, True), (2.000001, False), (math.nan, False), (math.inf, False)])
def test_an_update_that_moved_too_far_stays(norm: float, is_allowed: bool) -> None:
    assert judge_norm(norm, NARROW).is_allowed is is_allowed


@pytest.mark.parametrize("dtype", [WireDtype.F32, WireDtype.BF16])
def test_the_norm_is_of_what_training_changed_over_all_tensors(tmp_path: Path, dtype: WireDtype) -> None:
    names = ("a", "b")
    start = {name: np.full((2, 3), 1.5, np.float32) for name in names}
    write_weights(tmp_path / "start", start, dtype)
    write_weights(tmp_path / "update", {"a": start["a"] + 1, "b": start["b"] - 2}, dtype)
    assert measure_move(tmp_path / "update", tmp_path / "start") == pytest.approx(math.sqrt(6 * 1 + 6 * 4))
    write_weights(tmp_path / "part", {"b": start["b"] - 2}, dtype)
    assert measure_move(tmp_path / "part", tmp_path / "start") == pytest.approx(math.sqrt(24))


def test_a_move_beyond_what_float32_holds_is_within_no_bound(tmp_path: Path) -> None:
    write_weights(tmp_path / "start", {"a": np.full((2, 3), -3e38, np.float32)}, WireDtype.F32)
    for there in (3e38, 1e30):
        write_weights(tmp_path / "update", {"a": np.full((2, 3), there, np.float32)}, WireDtype.F32)
        assert not judge_norm(measure_move(tmp_path / "update", tmp_path / "start"), NARROW).is_allowed


def test_a_tensor_without_a_counterpart_has_no_norm(tmp_path: Path) -> None:
    write_weights(tmp_path / "start", {"a": np.ones((2, 3), np.float32)}, WireDtype.F32)
    write_weights(tmp_path / "update", {"a": np.ones((3, 3), np.float32)}, WireDtype.F32)
    with pytest.raises(UpdateRefusedError):
        measure_move(tmp_path / "update", tmp_path / "start")


@pytest.mark.parametrize(("counts", "is_allowed"), [((20, 5), True), ((19, 500), False), ((20, 4), False)])
def test_counts_of_too_few_examples_stay(counts: tuple[int, int], is_allowed: bool) -> None:
    decision = judge_counts({"num_examples": counts[0], "num_label_tokens": counts[1]}, NARROW)
    assert decision.reason is (None if is_allowed else Reason.POLICY_TOO_FEW_EXAMPLES)


@given(found=st.integers(0, 40), wrong=st.integers(0, 40), missed=st.integers(0, 40))
def test_no_small_cell_leaves_nor_can_be_worked_out(found: int, wrong: int, missed: int) -> None:
    counts = F1Counts(true_positives=found, predicted=found + wrong, gold=found + missed)
    result = EvaluateResult(mean_loss=1.0, num_label_tokens=9, num_examples=9, num_passages=9, strict=counts)
    scores = evaluation_scores(result, 1.0, NARROW)
    small = any(0 < cell < 5 for cell in (found, wrong, missed, found + wrong, found + missed))
    assert scores.strict == (None if small else counts)


def test_a_score_that_the_policy_does_not_name_is_left_out() -> None:
    counts = F1Counts(true_positives=50, predicted=100, gold=100)
    result = EvaluateResult(
        mean_loss=1.0, num_label_tokens=9, num_examples=9, num_passages=9, strict=counts, lenient=counts, seconds=3.0
    )
    scores = evaluation_scores(result, 1.0, replace(NARROW, metrics=METRICS - {"lenient", "seconds"}))
    assert (scores.strict, scores.lenient, scores.seconds) == (counts, None, 0.0)

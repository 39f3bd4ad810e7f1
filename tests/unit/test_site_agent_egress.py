"""What may leave: decisions on layouts, and layouts of real files with something hidden in them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.adapter import FactorSet, TensorSpec, WireDtype
from common.errors import Reason, UpdateRefusedError
from common.ids import digest_of
from common.weights_io import write_weights
from site_agent.adapters.update_file import describe_file
from site_agent.domain.assignment import UpdateSpec
from site_agent.domain.decision import ALLOWED
from site_agent.domain.egress import UPDATE_METRICS, judge_file, judge_metrics
from tests.fakes.site_values import make_spec, train_assignment, with_work

SPEC = make_spec()
WANTED = UpdateSpec(tensors=SPEC.tensors, dtype=SPEC.dtype)


def write_update(path: Path, tensors: tuple[TensorSpec, ...] = SPEC.tensors, dtype: WireDtype = SPEC.dtype) -> Path:
    write_weights(path, {tensor.name: np.zeros(tensor.shape, np.float32) for tensor in tensors}, dtype)
    return path


def with_header(path: Path, header: bytes) -> Path:
    """The same file under another header."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    path.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])
    return path


def header_of(path: Path) -> dict[str, object]:
    content = path.read_bytes()
    parsed: dict[str, object] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return parsed


@pytest.fixture
def update(tmp_path: Path) -> Path:
    return write_update(tmp_path / "update.safetensors")


def test_an_update_as_the_assignment_wants_it_may_leave(update: Path) -> None:
    described = describe_file(update)
    assert judge_file(described.layout, WANTED) == ALLOWED
    assert (described.digest, described.size_bytes) == (digest_of(update.read_bytes()), update.stat().st_size)


def test_a_tensor_that_nobody_asked_for_stays(tmp_path: Path) -> None:
    extra = TensorSpec(name="base_model.model.embed.lora_A.weight", shape=(2, 3))
    path = write_update(tmp_path / "update", (*SPEC.tensors, extra))
    decision = judge_file(describe_file(path).layout, WANTED)
    assert decision.reason is Reason.EGRESS_DENIED
    assert decision.detail.startswith("tensors: 1 differ from the assignment's")


def test_factors_that_do_not_travel_in_this_run_stay(update: Path) -> None:
    work = with_work(train_assignment(), uploaded=FactorSet.B_ONLY).work
    wanted = work.update_spec  # type: ignore[union-attr]
    assert len(wanted.tensors) == len(SPEC.tensors) // 2
    assert judge_file(describe_file(update).layout, wanted).reason is Reason.EGRESS_DENIED


def test_an_update_that_lacks_a_tensor_stays(tmp_path: Path) -> None:
    path = write_update(tmp_path / "update", SPEC.tensors[1:])
    assert judge_file(describe_file(path).layout, WANTED).reason is Reason.EGRESS_DENIED


def test_a_tensor_of_another_shape_stays(tmp_path: Path) -> None:
    path = write_update(tmp_path / "update", (replace(SPEC.tensors[0], shape=(2, 60)), *SPEC.tensors[1:]))
    assert judge_file(describe_file(path).layout, WANTED).reason is Reason.EGRESS_DENIED


def test_an_update_of_another_dtype_stays(tmp_path: Path) -> None:
    path = write_update(tmp_path / "update", dtype=WireDtype.F32)
    assert judge_file(describe_file(path).layout, WANTED).detail == "dtype: expected bf16, got ['f32']"


@pytest.mark.parametrize("metadata", [{"format": "pt", "note": "text"}, {"format": "text"}, ["text"]])
def test_text_in_the_metadata_stays(update: Path, metadata: object) -> None:
    header = header_of(update) | {"__metadata__": metadata}
    with_header(update, json.dumps(header, separators=(",", ":")).encode())
    assert judge_file(describe_file(update).layout, WANTED).detail.startswith("metadata: expected at most")


def test_signs_written_as_blanks_in_the_header_stay(update: Path) -> None:
    with_header(update, json.dumps(header_of(update), indent=1).encode())
    assert judge_file(describe_file(update).layout, WANTED).detail.startswith("stray bytes: expected none")


def test_bytes_after_the_last_tensor_are_no_update(update: Path) -> None:
    update.write_bytes(update.read_bytes() + b"text")
    with pytest.raises(UpdateRefusedError, match="expected a file of"):
        describe_file(update)


def test_metrics_that_were_asked_for_may_leave() -> None:
    assert judge_metrics({"num_examples", "mean_loss"}, UPDATE_METRICS) == ALLOWED


def test_a_metric_that_nobody_asked_for_stays() -> None:
    decision = judge_metrics({"num_examples", "longest_note"}, UPDATE_METRICS)
    assert (decision.reason, decision.detail.endswith("got also ['longest_note']")) == (Reason.EGRESS_DENIED, True)

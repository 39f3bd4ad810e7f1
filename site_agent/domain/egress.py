"""What may leave the site: first form. Fails closed: a tensor, a metric or a byte that nobody asked for stays home.

It decides from names, shapes and sizes alone; it reads no file and no value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from common.adapter import TensorSpec
from common.errors import Reason
from site_agent.domain.assignment import UpdateSpec
from site_agent.domain.eligibility import ALLOWED, Decision

_TASK_COUNTS = frozenset({"tasks.task", "tasks.num_examples", "tasks.num_label_tokens"})
UPDATE_METRICS = frozenset({"num_examples", "num_label_tokens", "mean_loss"}) | _TASK_COUNTS
_SCORES = frozenset({"mean_loss", "num_examples", "num_label_tokens", "strict", "lenient"})
EVALUATION_METRICS = _SCORES | {"seconds", "data_digest", "tasks.task"} | {f"tasks.{score}" for score in _SCORES}
# peft and transformers refuse a file that does not say for which framework it was written.
ALLOWED_METADATA = frozenset({("format", "pt")})
PROGRESS_METRICS = frozenset({"stage", "step", "steps", "loss", "tokens_per_second"})


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLayout:
    """What a safetensors file says about itself.

    Attributes:
        tensors: Sorted by name.
        dtypes: All dtypes that occur, in safetensors' names and lower case.
        metadata: Its free-text entries.
        stray_bytes: Bytes that say nothing: beside the tensors, or as blanks in the header.
    """

    tensors: tuple[TensorSpec, ...]
    dtypes: frozenset[str]
    metadata: frozenset[tuple[str, str]]
    stray_bytes: int


def judge_file(layout: FileLayout, spec: UpdateSpec) -> Decision:
    """Whether a file of this layout may leave for an assignment that asks for ``spec``."""
    if not layout.metadata <= ALLOWED_METADATA:
        return _denied(f"metadata: expected at most {sorted(ALLOWED_METADATA)}, got {len(layout.metadata)} entries")
    if layout.stray_bytes:
        return _denied(f"stray bytes: expected none, got {layout.stray_bytes}")
    if layout.dtypes != {str(spec.dtype)}:
        return _denied(f"dtype: expected {spec.dtype}, got {sorted(layout.dtypes)}")
    if layout.tensors != spec.tensors:
        differing = sorted({tensor.name for tensor in set(layout.tensors) ^ set(spec.tensors)})
        return _denied(f"tensors: {len(differing)} differ from the assignment's in name or shape: {differing[:3]}")
    return ALLOWED


def judge_metrics(names: Iterable[str], allowed: frozenset[str]) -> Decision:
    """Whether metrics of these names may leave."""
    unknown = sorted(set(names) - allowed)
    return _denied(f"metrics: expected only {sorted(allowed)}, got also {unknown}") if unknown else ALLOWED


def _denied(detail: str) -> Decision:
    return Decision(reason=Reason.EGRESS_DENIED, detail=detail)

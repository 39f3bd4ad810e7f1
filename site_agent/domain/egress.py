"""What may leave the site. Fails closed: what nobody asked for, or the site's own policy does not name, stays home.

It decides from names, shapes, sizes, counts and one norm; it reads no file and no value of a tensor.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from common.adapter import TensorSpec
from common.errors import Reason
from common.given_under import GivenUnder, PolicyStand
from site_agent.domain.assignment import UpdateSpec
from site_agent.domain.decision import ALLOWED, Decision
from site_agent.domain.policy import POLICY_DIGEST, EgressPolicy, SitePolicy

_TASK_COUNTS = frozenset({"tasks.task", "tasks.num_examples", "tasks.num_label_tokens"})
_GIVEN_UNDER = frozenset({"given_under.stand", "given_under.digest"})
UPDATE_METRICS = frozenset({"num_examples", "num_label_tokens", "mean_loss"}) | _TASK_COUNTS | _GIVEN_UNDER
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


def judge_tensors(layout: FileLayout, size_bytes: int, policy: SitePolicy) -> Decision:
    """Whether the site's own policy lets a file of this layout and size out, whatever the assignment asks for."""
    egress = policy.egress
    if size_bytes > egress.max_bytes:
        return _denied(f"bytes: expected at most {egress.max_bytes}, got {size_bytes}")
    if not layout.dtypes <= egress.dtypes:
        return _denied(f"dtypes: expected {sorted(egress.dtypes)}, got {sorted(layout.dtypes)}")
    patterns = [_pattern(each) for each in egress.tensors]
    for tensor in layout.tensors:
        if not any(pattern.fullmatch(tensor.name) for pattern in patterns):
            return _denied(f"tensors: expected names like {list(egress.tensors)}, got {tensor.name!r}")
        if max(tensor.shape) > egress.max_side or min(tensor.shape) > policy.max_lora_rank:
            most = f"at most {policy.max_lora_rank} by {egress.max_side}"
            return _denied(f"tensor {tensor.name!r}: expected {most}, got {list(tensor.shape)}")
    return ALLOWED


def judge_norm(norm: float, egress: EgressPolicy) -> Decision:
    """Whether an update that moved the adapter so far may leave; a norm that is no number is not small enough."""
    if norm <= egress.max_norm:
        return ALLOWED
    return _denied(f"norm of the update: expected at most {egress.max_norm:g}, got {norm:.6g}")


def judge_counts(counts: Mapping[str, int], egress: EgressPolicy) -> Decision:
    """Whether these counts, which the coordinator cannot do without, are of enough examples to leave."""
    least = {"num_examples": max(egress.min_examples, egress.smallest_cell)}
    for name, count in counts.items():
        expected = least.get(name, egress.smallest_cell)
        if count < expected:
            return Decision(
                reason=Reason.POLICY_TOO_FEW_EXAMPLES, detail=f"{name}: expected at least {expected}, got {count}"
            )
    return ALLOWED


def is_small_cell(count: int, egress: EgressPolicy) -> bool:
    """Whether ``count`` is of so few that it could tell of one patient. None at all tells of nobody."""
    return 0 < count < egress.smallest_cell


def given_under(policy: SitePolicy) -> GivenUnder:
    """What of ``policy`` an update may say; of its file the digest alone, and that only where it says so itself."""
    if policy.digest is None:
        return GivenUnder(stand=PolicyStand.UNWRITTEN)
    if POLICY_DIGEST not in policy.egress.metrics:
        return GivenUnder(stand=PolicyStand.WITHHELD)
    return GivenUnder(stand=PolicyStand.SHOWN, digest=policy.digest)


def _pattern(names: str) -> re.Pattern[str]:
    """``*`` stands for anything, and every other character for itself."""
    return re.compile(".*".join(re.escape(part) for part in names.split("*")))


def judge_metrics(names: Iterable[str], allowed: frozenset[str]) -> Decision:
    """Whether metrics of these names may leave."""
    unknown = sorted(set(names) - allowed)
    return _denied(f"metrics: expected only {sorted(allowed)}, got also {unknown}") if unknown else ALLOWED


def _denied(detail: str) -> Decision:
    return Decision(reason=Reason.EGRESS_DENIED, detail=detail)

"""May this site do this assignment? Decides from the assignment and the site's own policy; looks at no file.

That terms and specification keep their bounds was checked when they were read. What the trainer alone can see
(the weights on disk, the notes, the device) it checks itself, later.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.adapter import AdapterSpec, FactorSet, check_spec
from common.errors import InputInvalidError, Reason
from common.ids import Digest
from common.terms import Terms
from site_agent.domain.assignment import AdapterRef, Assignment, EvaluateWork, InitialiseWork, ScoreWork, TrainWork

# A safetensors header takes about 120 bytes a tensor; this is room for the most tensors an adapter may have.
MAX_FILE_OVERHEAD_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePolicy:
    """What this site takes part in; it comes from the site's own configuration alone.

    Attributes:
        kinds: Of work, as :attr:`Assignment.kind` names them.
        strategies: In which it trains, by name; to make or score an adapter is the same work in all of them.
        weights_digest: Of the base model that the site keeps; None leaves the check to the trainer.
        max_lora_rank: The largest rank at which the site trains; 0: any.
    """

    kinds: frozenset[str]
    strategies: frozenset[str]
    weights_digest: Digest | None = None
    max_lora_rank: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Yes, or no with a reason. ``detail`` is for the site's own log."""

    reason: Reason | None = None
    detail: str = ""

    @property
    def is_allowed(self) -> bool:
        """Whether the answer is yes."""
        return self.reason is None


ALLOWED = Decision()


def judge_spec(spec: AdapterSpec, terms: Terms) -> Decision:
    """Whether ``spec`` is a LoRA adapter as ``terms`` want it."""
    try:
        check_spec(spec)
    except InputInvalidError as error:
        return _unsupported(error.message)
    problem = _spec_problem(spec, terms, range(terms.lora.lora_rank, terms.lora.lora_rank + 1))
    return _unsupported(problem) if problem else ALLOWED


def judge(assignment: Assignment, policy: SitePolicy) -> Decision:
    """Whether the site may do ``assignment`` under ``policy``: the first objection, or ALLOWED."""
    expected = policy.weights_digest
    got = assignment.terms.base_model.weights_digest
    strategy = assignment.terms.aggregation.strategy
    if assignment.kind not in policy.kinds:
        return _unsupported(f"kind: expected one of {sorted(policy.kinds)}, got {assignment.kind}")
    if assignment.kind == "train" and strategy not in policy.strategies:
        return _unsupported(f"strategy: expected one of {sorted(policy.strategies)}, got {strategy[:64]!r}")
    if expected is not None and got != expected:
        return Decision(reason=Reason.BASE_MODEL_MISMATCH, detail=f"base model weights: expected {expected}, got {got}")
    return _judge_work(assignment, policy.max_lora_rank)


def _judge_work(assignment: Assignment, max_lora_rank: int) -> Decision:
    """Whether the adapter handed out is the one that the terms describe, and no larger than it says."""
    match assignment.work:
        case InitialiseWork():
            return ALLOWED
        case TrainWork(global_adapter=adapter, adapter_spec=spec, trained=trained, uploaded=uploaded, own=own):
            ranks = _trained_ranks(assignment.terms, max_lora_rank)
            problem = _factors_problem(trained, uploaded, own)
        case ScoreWork(update=adapter, adapter_spec=spec):
            ranks, problem = _trained_ranks(assignment.terms, 0), None
        case EvaluateWork(candidate=adapter, adapter_spec=spec):
            ranks, problem = range(assignment.terms.published_rank, assignment.terms.published_rank + 1), None
    problem = problem or _spec_problem(spec, assignment.terms, ranks) or _file_problem(adapter, spec)
    problem = problem or _side_problem(assignment)
    return _unsupported(problem) if problem else ALLOWED


def _trained_ranks(terms: Terms, max_lora_rank: int) -> range:
    """From the least rank that the terms allow to the largest that terms and policy do."""
    least = terms.lora.least_lora_rank or terms.lora.lora_rank
    return range(least, min(terms.lora.lora_rank, max_lora_rank or terms.lora.lora_rank) + 1)


def _side_problem(assignment: Assignment) -> str | None:
    """What is added while training is no part of the update, so its rank alone is free."""
    if not isinstance(assignment.work, TrainWork) or assignment.work.side is None:
        return None
    adapter, spec = assignment.work.side
    modules = assignment.work.adapter_spec.modules
    problem = _spec_problem(spec, assignment.terms, range(1, assignment.terms.published_rank + 1))
    if problem is None and spec.modules != modules:
        problem = f"side adapter: expected the {len(modules)} modules that are trained, got others"
    return problem or _file_problem(adapter, spec)


def _factors_problem(trained: FactorSet, uploaded: FactorSet, own: FactorSet | None) -> str | None:
    if own is not None and trained not in (own, FactorSet.A_AND_B):
        return f"own factors: expected some of those trained ({trained}), got {own}"
    if trained is FactorSet.A_AND_B or uploaded is trained:
        return None
    return f"uploaded factors: expected some of those trained ({trained}), got {uploaded}"


def _spec_problem(spec: AdapterSpec, terms: Terms, ranks: range) -> str | None:
    got = (spec.lora_alpha, spec.target_modules, spec.dtype)
    expected = (terms.lora.lora_alpha, terms.lora.target_modules, terms.aggregation.wire_dtype)
    if got != expected:
        return f"adapter specification: expected the terms' {expected}, got {got}"
    if spec.lora_rank not in ranks:
        return (
            f"lora_rank: expected {ranks.start} to {ranks.stop - 1}, by the terms and this site, got {spec.lora_rank}"
        )
    return None


def _file_problem(adapter: AdapterRef, spec: AdapterSpec) -> str | None:
    if adapter.spec_digest != spec.digest:
        return f"adapter specification: expected digest {spec.digest}, got {adapter.spec_digest}"
    largest = spec.data_bytes + MAX_FILE_OVERHEAD_BYTES
    if not spec.data_bytes < adapter.size_bytes <= largest:
        return f"adapter file: expected {spec.data_bytes + 1} to {largest} bytes, got {adapter.size_bytes}"
    return None


def _unsupported(detail: str) -> Decision:
    return Decision(reason=Reason.SETTINGS_UNSUPPORTED, detail=detail)

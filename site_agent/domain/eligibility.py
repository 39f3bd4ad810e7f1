"""May this site do this assignment? Decides from the assignment and the site's own policy; looks at no file.

That terms and specification keep their bounds was checked when they were read. What the trainer alone can see
(the weights on disk, the notes, the device) it checks itself, later. Whether a person said yes, and whether the hours
have come, is asked apart: those answers change.
"""

from __future__ import annotations

from common.adapter import AdapterSpec, FactorSet, check_spec
from common.errors import InputInvalidError, Reason
from common.terms import GateMetric, Terms
from site_agent.domain.assignment import AdapterRef, Assignment, EvaluateWork, InitialiseWork, ScoreWork, TrainWork
from site_agent.domain.decision import ALLOWED, Decision, first_no
from site_agent.domain.egress import FileLayout, judge_tensors
from site_agent.domain.policy import UPDATE_COUNTS, SitePolicy
from site_agent.domain.term_rules import judge_terms

# A safetensors header takes about 120 bytes a tensor; this is room for the most tensors an adapter may have.
MAX_FILE_OVERHEAD_BYTES = 16 * 2**20
_F1_METRICS = {GateMetric.STRICT_F1: "strict", GateMetric.LENIENT_F1: "lenient"}


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
    if assignment.kind not in policy.kinds:
        return _unsupported(f"kind: expected one of {sorted(policy.kinds)}, got {assignment.kind}")
    if expected is not None and got != expected:
        return Decision(reason=Reason.BASE_MODEL_MISMATCH, detail=f"base model weights: expected {expected}, got {got}")
    return first_no(
        _judge_terms(assignment, policy), _judge_work(assignment, policy), _judge_answer(assignment, policy)
    )


def judge_signing(assignment: Assignment, *, has_signing_key: bool) -> Decision:
    """Whether the site can sign its update, where the terms ask for that: better known before hours of training."""
    if assignment.kind == "train" and assignment.terms.admission.requires_signatures and not has_signing_key:
        return _unsupported("terms: expected updates without signatures, for this site has no signing key")
    return ALLOWED


def _judge_terms(assignment: Assignment, policy: SitePolicy) -> Decision:
    for verdict in judge_terms(assignment.terms, policy, is_trained=assignment.kind == "train"):
        if not verdict.is_allowed:
            return _forbidden(f"{verdict.path}: expected {verdict.expected}, got {verdict.got[:200]}")
    return ALLOWED


def _judge_answer(assignment: Assignment, policy: SitePolicy) -> Decision:
    """Whether what the coordinator cannot do without may leave: better known before hours of training than after."""
    needed = _metrics_needed(assignment) - policy.egress.metrics
    if needed:
        return _forbidden(f"egress.metrics: expected {sorted(policy.egress.metrics)}, got {sorted(needed)} too")
    match assignment.work:
        case TrainWork(update_spec=wanted):
            layout = FileLayout(
                tensors=wanted.tensors, dtypes=frozenset({str(wanted.dtype)}), metadata=frozenset(), stray_bytes=0
            )
            size_bytes = sum(tensor.parameters for tensor in wanted.tensors) * wanted.dtype.item_bytes
            decision = judge_tensors(layout, size_bytes, policy)
            return decision if decision.is_allowed else _forbidden(decision.detail)
    return ALLOWED


def _metrics_needed(assignment: Assignment) -> frozenset[str]:
    counts = UPDATE_COUNTS | ({"tasks"} if len(assignment.terms.task.tasks) > 1 else set())
    match assignment.work:
        case InitialiseWork():
            return frozenset()
        case TrainWork():
            return counts
        case ScoreWork():
            return counts | {"mean_loss"}
        case EvaluateWork():
            f1 = _F1_METRICS.get(assignment.terms.gate.metric)
            return counts | {"mean_loss"} | ({f1} if f1 else set())


def _judge_work(assignment: Assignment, policy: SitePolicy) -> Decision:
    """Whether round and adapter are ones that the terms describe, and the adapter no larger than it says."""
    match assignment.work:
        case InitialiseWork():
            return ALLOWED if assignment.round_number == 0 else _forbidden("round: expected 0 before the first one")
        case TrainWork(global_adapter=adapter, adapter_spec=spec, trained=trained, uploaded=uploaded, own=own):
            ranks = _trained_ranks(assignment.terms, policy.max_lora_rank)
            problem = _factors_problem(trained, uploaded, own)
        case ScoreWork(update=adapter, adapter_spec=spec):
            ranks, problem = _trained_ranks(assignment.terms, assignment.terms.lora.lora_rank), None
        case EvaluateWork(candidate=adapter, adapter_spec=spec):
            ranks, problem = range(assignment.terms.published_rank, assignment.terms.published_rank + 1), None
    problem = problem or _spec_problem(spec, assignment.terms, ranks) or _file_problem(adapter, spec)
    problem = problem or _side_problem(assignment)
    if problem:
        return _unsupported(problem)
    count = assignment.terms.rounds.count
    if not 1 <= assignment.round_number <= count:
        return _forbidden(f"round: expected 1 to {count}, got {assignment.round_number}")
    return ALLOWED


def _trained_ranks(terms: Terms, max_lora_rank: int) -> range:
    """From the least rank that the terms allow to the largest that terms and policy do."""
    least = terms.lora.least_lora_rank or terms.lora.lora_rank
    return range(least, min(terms.lora.lora_rank, max_lora_rank) + 1)


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


def _forbidden(detail: str) -> Decision:
    return Decision(reason=Reason.POLICY_FORBIDS, detail=detail)


def _unsupported(detail: str) -> Decision:
    return Decision(reason=Reason.SETTINGS_UNSUPPORTED, detail=detail)

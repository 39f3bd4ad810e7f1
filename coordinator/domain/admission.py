"""Whether an answer to an assignment may enter the round, by what it says of itself. Bytes are checked elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass

from common.adapter import AdapterSpec, TensorSpec
from common.errors import (
    FedMedError,
    InputInvalidError,
    NotAllowedError,
    NotFoundError,
    NotNowError,
    Reason,
    UpdateRefusedError,
)
from common.given_under import GivenUnder, check_given_under
from common.ids import AssignmentId, Digest, SiteName
from common.terms import GateMetric, Task, Terms
from coordinator.domain.aggregation import strategy_of
from coordinator.domain.aggregation.strategy import Need
from coordinator.domain.cohort import evaluate_assignment_id, initialise_assignment_id, score_assignment_id
from coordinator.domain.promotion import metric_value
from coordinator.domain.values import (
    EvaluatorOutcome,
    RosterEntry,
    Round,
    Run,
    Scores,
    SiteOutcome,
    TaskCounts,
    TaskScores,
)

# A safetensors header is about 100 bytes a tensor; this allows any order, spacing and metadata that peers write.
HEADER_BYTES_PER_TENSOR = 512
HEADER_BYTES_FIXED = 4096
# An example longer than the longest context of the base models supported is a wrong count.
MAX_LABEL_TOKENS_PER_EXAMPLE = 131_072


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedUpdate:
    """What a site says of its update before its bytes are read."""

    size_bytes: int
    base_digest: Digest
    num_examples: int
    num_label_tokens: int
    tasks: tuple[TaskCounts, ...] = ()
    given_under: GivenUnder | None = None


def max_update_bytes(spec: AdapterSpec, tensors: tuple[TensorSpec, ...]) -> int:
    """The largest safetensors file that can hold exactly ``tensors``."""
    data = sum(tensor.parameters for tensor in tensors) * spec.dtype.item_bytes
    return data + HEADER_BYTES_FIXED + HEADER_BYTES_PER_TENSOR * len(tensors)


def check_claim(terms: Terms, claim: ClaimedUpdate, base: Digest, max_bytes: int) -> None:
    """Check everything that an update says of itself.

    Raises:
        UpdateRefusedError: UPDATE_BASE_DIFFERS, UPDATE_TOO_LARGE or UPDATE_COUNT_ABSURD, expected against got.
        InputInvalidError: DIGEST_INVALID or FIELD_INVALID, of the policy that it is said to be given under.
    """
    if claim.given_under is not None:
        check_given_under(claim.given_under)
    if claim.base_digest != base:
        raise UpdateRefusedError(Reason.UPDATE_BASE_DIFFERS, f"base_digest: expected {base}, got {claim.base_digest}")
    check_size(claim.size_bytes, max_bytes)
    most_examples = terms.admission.max_num_examples
    if not 1 <= claim.num_examples <= most_examples:
        raise UpdateRefusedError(
            Reason.UPDATE_COUNT_ABSURD,
            f"num_examples: expected 1 to {most_examples}, got {claim.num_examples}",
        )
    most_tokens = min(terms.admission.max_num_label_tokens, claim.num_examples * MAX_LABEL_TOKENS_PER_EXAMPLE)
    if not 1 <= claim.num_label_tokens <= most_tokens:
        raise UpdateRefusedError(
            Reason.UPDATE_COUNT_ABSURD,
            f"num_label_tokens: expected 1 to {most_tokens}, got {claim.num_label_tokens}",
        )
    _check_task_counts(terms, claim)


def _check_task_counts(terms: Terms, claim: ClaimedUpdate) -> None:
    """Counts task by task are of the run's tasks and sum to those in all; a run of several tasks needs them."""
    if not claim.tasks and len(terms.task.tasks) == 1:
        return
    _check_tasks(terms, [each.task for each in claim.tasks], UpdateRefusedError, Reason.UPDATE_COUNT_ABSURD)
    for what in ("num_examples", "num_label_tokens"):
        counts = [getattr(each, what) for each in claim.tasks]
        total = getattr(claim, what)
        if min(counts) < 1 or sum(counts) != total:
            raise UpdateRefusedError(
                Reason.UPDATE_COUNT_ABSURD, f"tasks.{what}: expected counts above 0 that sum to {total}, got {counts}"
            )


def _check_tasks(terms: Terms, tasks: list[Task], error: type[FedMedError], reason: Reason) -> None:
    if not tasks or len(set(tasks)) < len(tasks) or not set(tasks) <= set(terms.task.tasks):
        expected, got = ", ".join(terms.task.tasks), ", ".join(tasks) or "none"
        raise error(reason, f"tasks: expected at least one of the run's ({expected}), each once, got {got}")


def check_size(size_bytes: int, max_bytes: int) -> None:
    """Check the size that an upload announces, before a byte of it is read.

    Raises:
        UpdateRefusedError: UPDATE_TOO_LARGE.
    """
    if not 0 < size_bytes <= max_bytes:
        raise UpdateRefusedError(Reason.UPDATE_TOO_LARGE, f"size_bytes: expected 1 to {max_bytes}, got {size_bytes}")


def check_first_adapter(terms: Terms, spec: AdapterSpec) -> AdapterSpec:
    """Return ``spec`` if it is the adapter that the terms ask for.

    Raises:
        UpdateRefusedError: SPEC_INVALID, expected against got.
    """
    asked: tuple[tuple[str, object, object], ...] = (
        ("lora_rank", terms.lora.lora_rank, spec.lora_rank),
        ("lora_alpha", terms.lora.lora_alpha, spec.lora_alpha),
        ("target_modules", terms.lora.target_modules, spec.target_modules),
        ("dtype", terms.aggregation.wire_dtype, spec.dtype),
    )
    for name, expected, got in asked:
        if expected != got:
            raise UpdateRefusedError(Reason.SPEC_INVALID, f"{name}: expected {expected}, got {got}")
    for module in spec.modules:
        if not any(_is_targeted(module, target) for target in spec.target_modules):
            raise UpdateRefusedError(Reason.SPEC_INVALID, f"tensors: expected target modules alone, got {module!r}")
    return spec


def _is_targeted(module: str, target: str) -> bool:
    """Whether peft adapts ``module`` for the name ``target``: its path is that, or ends in it."""
    return module == target or module.endswith("." + target)


def check_scores(scores: Scores) -> None:
    """Check that scores are numbers.

    Raises:
        InputInvalidError: METRIC_NOT_FINITE or FIELD_INVALID.
    """
    _check_scored(scores)


def check_task_scores(terms: Terms, scores: Scores) -> None:
    """Check scores task by task: of the run's tasks, numbers, and there at all when the run has several.

    Raises:
        InputInvalidError: METRIC_NOT_FINITE or FIELD_INVALID.
    """
    if not scores.tasks and len(terms.task.tasks) == 1:
        return
    _check_tasks(terms, [each.task for each in scores.tasks], InputInvalidError, Reason.FIELD_INVALID)
    for each in scores.tasks:
        _check_scored(each)
    for what in ("num_examples", "num_label_tokens"):
        counts, total = [getattr(each, what) for each in scores.tasks], getattr(scores, what)
        if sum(counts) != total:
            raise InputInvalidError(
                Reason.FIELD_INVALID, f"tasks.{what}: expected counts that sum to {total}, got {counts}"
            )


def _check_scored(scores: Scores | TaskScores) -> None:
    if not math.isfinite(scores.mean_loss) or scores.mean_loss < 0:
        raise InputInvalidError(
            Reason.METRIC_NOT_FINITE, "mean_loss: expected a finite number of at least 0, got another"
        )
    if scores.num_examples < 1:
        raise InputInvalidError(Reason.FIELD_INVALID, f"num_examples: expected at least 1, got {scores.num_examples}")
    for what, counts in (("strict", scores.strict), ("lenient", scores.lenient)):
        if counts is not None and not 0 <= counts.true_positives <= min(counts.predicted, counts.gold):
            raise InputInvalidError(
                Reason.FIELD_INVALID, f"{what}: expected true_positives of 0 to the lesser of predicted and gold"
            )


def check_same_set(run: Run, scores: Scores) -> None:
    """Check that an update was scored on as much as the others of its round: losses of other sets do not compare.

    Raises:
        InputInvalidError: FIELD_INVALID, expected against got.
    """
    current = run.current
    known = [] if current is None else [entry.scores for entry in current.roster if entry.scores is not None]
    for first in known[:1]:
        expected, got = ((each.num_examples, each.num_label_tokens) for each in (first, scores))
        if expected != got or _task_sizes(first) != _task_sizes(scores):
            raise InputInvalidError(
                Reason.FIELD_INVALID,
                f"scores: expected {expected[0]} examples with {expected[1]} label tokens, on which another update of "
                f"this round was scored, got {got[0]} with {got[1]}",
            )
        if first.data_digest and scores.data_digest and first.data_digest != scores.data_digest:
            raise InputInvalidError(
                Reason.FIELD_INVALID,
                f"data_digest: expected {first.data_digest}, on which another update of this round was scored, "
                f"got {scores.data_digest}",
            )


def _task_sizes(scores: Scores) -> list[tuple[Task, int, int]]:
    return [(each.task, each.num_examples, each.num_label_tokens) for each in scores.tasks]


def check_gate_metric(terms: Terms, scores: Scores) -> None:
    """Check that a candidate's scores hold what the gate compares.

    Raises:
        InputInvalidError: METRIC_MISSING.
    """
    metric = terms.gate.metric
    is_partial = metric is GateMetric.COMBINED_F1 and {each.task for each in scores.tasks} != set(terms.task.tasks)
    if metric is not GateMetric.NONE and (is_partial or metric_value(metric, scores) is None):
        raise InputInvalidError(Reason.METRIC_MISSING, f"scores: expected {metric}, which the gate compares")


def explain_dead_assignment(runs: tuple[Run, ...], caller: SiteName, wanted: AssignmentId) -> None:
    """Say why ``wanted`` is not a live assignment of ``caller``: someone else's, past, or never was.

    Raises:
        UpdateRefusedError: what it sent was refused; the same answer again, should the first have been lost.
        NotNowError: it was the caller's: RUN_ENDED, ALREADY_ANSWERED or ROUND_CLOSED.
        NotAllowedError: ASSIGNMENT_NOT_YOURS.
        NotFoundError: ASSIGNMENT_UNKNOWN.
    """
    for run in runs:
        for entry in (entry for past in run.rounds for entry in past.roster):
            if entry.assignment_id == wanted:
                if entry.site != caller:
                    raise NotAllowedError(Reason.ASSIGNMENT_NOT_YOURS, "this assignment belongs to another site")
                if entry.outcome is SiteOutcome.REFUSED and entry.reason is not None:
                    raise UpdateRefusedError(entry.reason, "the update of this assignment was refused")
                is_open = run.current is not None and entry in run.current.roster
                _explain_closed(run, is_answered=is_open and entry.outcome is not SiteOutcome.STRAGGLER)
        if wanted in (ids := _evaluator_ids(run, caller)):
            no = next((each for each in ids[wanted] if each.evaluator == caller), None)
            if no is not None and no.outcome is SiteOutcome.REFUSED:
                raise UpdateRefusedError(no.reason, "the answer to this assignment was refused")
            _explain_closed(run, is_answered=no is not None or _is_scored(run, caller, wanted))
    raise NotFoundError(Reason.ASSIGNMENT_UNKNOWN, "no such assignment")


def _evaluator_ids(run: Run, caller: SiteName) -> dict[AssignmentId, tuple[EvaluatorOutcome, ...]]:
    ids = {evaluate_assignment_id(run.run_id, past.number, caller): past.evaluator_outcomes for past in run.rounds}
    if Need.UPDATE_SCORES in strategy_of(run.terms).needs:
        for past in run.rounds[-2:]:  # older ones are unknown by now
            ids |= {each: past.evaluator_outcomes for each in _score_ids(run, past, caller)}
    return {**ids, initialise_assignment_id(run.run_id, caller): run.evaluator_outcomes}


def _score_ids(run: Run, past: Round, evaluator: SiteName) -> dict[AssignmentId, RosterEntry]:
    return {score_assignment_id(run.run_id, past.number, evaluator, each.site): each for each in past.roster}


def _is_scored(run: Run, evaluator: SiteName, wanted: AssignmentId) -> bool:
    """Whether that is the SCORE assignment of an update of the open round whose fate is decided."""
    current = run.current
    entry = None if current is None else _score_ids(run, current, evaluator).get(wanted)
    return current is not None and entry is not None and entry not in current.unscored


def _explain_closed(run: Run, is_answered: bool) -> None:
    if not run.state.is_open:
        raise NotNowError(Reason.RUN_ENDED, f"run {run.terms.name} has ended as {run.state}")
    if is_answered:
        raise NotNowError(Reason.ALREADY_ANSWERED, "this assignment has its answer already")
    raise NotNowError(Reason.ROUND_CLOSED, "the round of this assignment is closed")

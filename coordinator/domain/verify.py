"""What a third party can tell from a run's record alone: that each round follows from terms and the round before.

Pure: signatures and files are checked in `coordinator.app.verify_release`. It believes nothing that can be computed
again; what a coordinator alone knows (who was present, what an evaluator found) it takes as the record says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from common.adapter import check_spec
from common.errors import FedMedError
from common.ids import derived_id, is_name
from common.terms import GateMetric, OnEvaluatorAbsent, Terms, check_terms
from coordinator.domain.adapter_parts import cut_to_train, file_of
from coordinator.domain.admission import (
    ClaimedUpdate,
    check_claim,
    check_first_adapter,
    check_scores,
    check_task_scores,
    max_update_bytes,
)
from coordinator.domain.aggregation import check_needs, strategy_of
from coordinator.domain.aggregation.strategy import Need
from coordinator.domain.cohort import train_assignment_id
from coordinator.domain.contributions import contributions
from coordinator.domain.promotion import is_promoted
from coordinator.domain.run_machine import next_start
from coordinator.domain.values import AdapterFile, Phase, RosterEntry, Round, Run, Scores, SiteOutcome


class Problem(StrEnum):
    """What is wrong with a release; only of the last three may it be said that nothing contradicts it."""

    FILE_MISSING = "file_missing"
    FILE_UNEXPECTED = "file_unexpected"
    FILE_CHANGED = "file_changed"
    MANIFEST_UNREADABLE = "manifest_unreadable"
    RELEASE_SIGNATURE_INVALID = "release_signature_invalid"
    TERMS_DIFFER = "terms_differ"
    SPECIFICATION_DIFFERS = "specification_differs"
    LINEAGE_BROKEN = "lineage_broken"
    ROSTER_IMPOSSIBLE = "roster_impossible"
    WEIGHTS_DIFFER = "weights_differ"
    GATE_DIFFERS = "gate_differs"
    UPDATE_SIGNATURE_INVALID = "update_signature_invalid"
    SIGNING_CERTIFICATE_INVALID = "signing_certificate_invalid"
    AGGREGATE_DIFFERS = "aggregate_differs"
    UPDATE_UNSIGNED = "update_unsigned"
    SIGNING_KEY_UNCONFIRMED = "signing_key_unconfirmed"
    SIGNING_KEY_REVOKED = "signing_key_revoked"

    @property
    def is_doubt(self) -> bool:
        """Whether a proof is missing, while nothing is known to be false."""
        return self in (Problem.UPDATE_UNSIGNED, Problem.SIGNING_KEY_UNCONFIRMED, Problem.SIGNING_KEY_REVOKED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong: in which file, about what (a round, a site), and expected against got."""

    problem: Problem
    file: str
    about: str = ""
    detail: str = ""

    def __str__(self) -> str:
        about = f" ({self.about})" if self.about else ""
        return printable(f"{self.problem}: {self.file}{about}: {self.detail}")


def printable(text: str) -> str:
    """``text`` for a terminal: names of files and words of a manifest are a stranger's, and could steer it."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def lineage_findings(run: Run, version: int, file: str) -> tuple[Finding, ...]:
    """Everything in the record of ``run``, which is in ``file``, that contradicts itself; ``version`` is released."""
    try:
        problems = list(_terms_problems(run.terms)) or list(_problems(run, version))
    except FedMedError as error:
        problems = [(Problem.ROSTER_IMPOSSIBLE, "run", error.message)]
    return tuple(Finding(problem=what, file=file, about=about, detail=detail) for what, about, detail in problems)


# The last digits of an exponential differ by machine.
_WEIGHT_TOLERANCE = 1e-12
_Problems = Iterator[tuple[Problem, str, str]]


def _terms_problems(terms: Terms) -> _Problems:
    try:
        check_terms(terms)
        check_needs(strategy_of(terms), terms)
    except FedMedError as error:
        yield Problem.TERMS_DIFFER, "terms", error.message


def _problems(run: Run, version: int) -> _Problems:
    expected = derived_id("run", run.terms.digest)
    if run.run_id != expected:
        yield Problem.TERMS_DIFFER, "run_id", f"expected {expected}, which the terms give, got {run.run_id[:40]}"
    try:
        if run.spec is None or run.first_adapter is None:
            raise ValueError("expected a specification and a first adapter, got none")
        check_first_adapter(run.terms, check_spec(run.spec))
    except (FedMedError, ValueError) as error:
        yield Problem.SPECIFICATION_DIFFERS, "specification", str(error)
        return
    numbers = [past.number for past in run.rounds]
    if not 1 <= version <= run.terms.rounds.count or numbers != list(range(1, version + 1)):
        yield Problem.LINEAGE_BROKEN, "rounds", f"expected rounds 1 to {version} of {run.terms.rounds.count}"
        return
    if run.rounds[-1].phase is not Phase.COMMITTED:
        detail = f"expected {Phase.COMMITTED}, got {run.rounds[-1].phase}"
        yield Problem.GATE_DIFFERS, f"round {version}", detail
    for past in run.rounds:
        so_far = replace(run, rounds=run.rounds[: past.number - 1])
        for problem, about, detail in _round_problems(so_far, past):
            yield problem, f"round {past.number}{about and ', '}{about}", detail


def _round_problems(so_far: Run, past: Round) -> _Problems:
    if past.phase not in (Phase.COMMITTED, Phase.REJECTED) or past.candidate is None:
        yield Problem.LINEAGE_BROKEN, "", f"expected a round that ended with a candidate, got {past.phase}"
        return
    start = next_start(so_far, so_far.rounds[-1]) if so_far.rounds else so_far.first_adapter
    if start is not None and past.global_adapter != start:
        yield Problem.LINEAGE_BROKEN, "", f"expected to start from {start.digest}, got {past.global_adapter.digest}"
    yield from _roster_problems(so_far, past)
    yield from _weight_problems(so_far.terms, past)
    yield from _gate_problems(so_far, past)


def _roster_problems(so_far: Run, past: Round) -> _Problems:
    names = [entry.site for entry in past.roster]
    if names != sorted(set(names)):
        yield Problem.ROSTER_IMPOSSIBLE, "", "expected each site once, sorted by name"
    if expected := set(so_far.terms.rounds.sites) - set(names):
        yield Problem.ROSTER_IMPOSSIBLE, "", f"expected everyone whom the terms name, got none of {sorted(expected)}"
    if surplus := set(names) - set(so_far.terms.rounds.sites or names):
        yield Problem.ROSTER_IMPOSSIBLE, "", f"expected nobody but whom the terms name, got {sorted(surplus)}"
    if len(past.accepted) < so_far.terms.rounds.quorum:
        expected_count, got = so_far.terms.rounds.quorum, len(past.accepted)
        yield Problem.ROSTER_IMPOSSIBLE, "", f"expected at least {expected_count} updates, the quorum, got {got}"
    for entry in past.roster:
        if detail := _entry_problem(so_far, past, entry):
            yield Problem.ROSTER_IMPOSSIBLE, entry.site, detail


def _answer_problem(terms: Terms, entry: RosterEntry) -> str | None:
    is_accepted = entry.outcome is SiteOutcome.ACCEPTED
    if not is_name(entry.site):
        return "expected a name of 1 to 63 of a-z, 0-9 and inner '-'"
    if entry.is_withdrawn and (entry.update is None or not terms.rounds.keeps_updates):
        return "expected an update that the terms keep, to be deleted on withdrawal, got none"
    if entry.outcome.is_open:
        return f"expected an answer or a straggler, got {entry.outcome}"
    if is_accepted and entry.update is None:
        return "expected the update that was accepted, got none"
    if not is_accepted and entry.weight != 0:
        return f"expected no weight for a site that is {entry.outcome}, got {entry.weight:g}"
    return None


def _entry_problem(so_far: Run, past: Round, entry: RosterEntry) -> str | None:
    if detail := _answer_problem(so_far.terms, entry):
        return detail
    expected_id = train_assignment_id(so_far.run_id, past.number, entry.site)
    if entry.assignment_id != expected_id:
        return f"expected assignment {expected_id}, got {entry.assignment_id[:40]}"
    if entry.outcome is not SiteOutcome.ACCEPTED or entry.update is None or so_far.spec is None:
        return None
    base = base_of(so_far, past, entry)
    if base is None:
        return "expected the part of the adapter that it trained from, got none"
    claim = ClaimedUpdate(
        size_bytes=entry.update.file.size_bytes,
        base_digest=base.digest,
        num_examples=entry.update.num_examples,
        num_label_tokens=entry.update.num_label_tokens,
        tasks=entry.update.tasks,
        given_under=entry.update.given_under,
    )
    spec = so_far.spec.at_rank(entry.lora_rank or so_far.spec.lora_rank)
    tensors = spec.tensors_of(strategy_of(so_far.terms).plan(past.number, entry.site).uploaded)
    try:
        check_claim(so_far.terms, claim, base.digest, max_update_bytes(spec, tensors))
        if entry.scores is not None:
            check_scores(entry.scores)
            check_task_scores(so_far.terms, entry.scores)
    except FedMedError as error:
        return error.message
    return None


def base_of(run: Run, past: Round, entry: RosterEntry) -> AdapterFile | None:
    """The adapter, or part of one, that the site trained from; None when the record has none."""
    return file_of(past, cut_to_train(run, past, entry))


def _weight_problems(terms: Terms, past: Round) -> _Problems:
    """Weights that need nothing but counts and losses are computed again, those by geometry where updates are."""
    strategy = strategy_of(terms)
    entries = [entry for entry in past.accepted if entry.update is not None]
    is_without_losses = Need.UPDATE_SCORES in strategy.needs and any(entry.scores is None for entry in entries)
    if past.is_weighed_by_size != is_without_losses:
        yield Problem.WEIGHTS_DIFFER, "", f"expected is_weighed_by_size to be {is_without_losses}"
    if is_without_losses and terms.gate.on_evaluator_absent is not OnEvaluatorAbsent.PROMOTE:
        yield Problem.WEIGHTS_DIFFER, "", "expected a loss of each update, for the terms allow no weights without"
    total = math.fsum(entry.weight for entry in entries)
    if any(not 0 <= entry.weight <= 1 for entry in entries) or total > 1 + 1e-9:
        yield Problem.WEIGHTS_DIFFER, "", f"expected weights of 0 to 1, at most 1 together, got {total:g}"
    if Need.GEOMETRY in strategy.needs or not entries:
        return
    for entry, weight in zip(entries, strategy.weigh(contributions(entries), None), strict=True):
        if not math.isclose(entry.weight, weight, rel_tol=_WEIGHT_TOLERANCE):
            yield Problem.WEIGHTS_DIFFER, entry.site, f"expected {weight!r} by {strategy.name}, got {entry.weight!r}"


def _gate_problems(so_far: Run, past: Round) -> _Problems:
    gate = so_far.terms.gate
    if past.scores is None:
        may_be = gate.metric is GateMetric.NONE or gate.on_evaluator_absent is OnEvaluatorAbsent.PROMOTE
        is_expected = past.is_unscored is (gate.metric is not GateMetric.NONE)
        if not may_be or not is_expected or past.phase is not Phase.COMMITTED:
            yield Problem.GATE_DIFFERS, "", f"expected the scores that {past.phase} follows from, got none"
        return
    check_scores(past.scores)
    check_task_scores(so_far.terms, past.scores)
    earlier: list[Scores] = [
        each.scores for each in so_far.rounds if each.phase is Phase.COMMITTED and each.scores is not None
    ]
    promoted = is_promoted(gate, past.scores, earlier[-1] if earlier else None)
    expected = Phase.COMMITTED if promoted else Phase.REJECTED
    if past.phase is not expected or past.is_unscored or gate.metric is GateMetric.NONE:
        yield Problem.GATE_DIFFERS, "", f"expected {expected} by the scores, got {past.phase}"

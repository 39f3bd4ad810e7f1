"""A run as a person at the site sees it: its terms in words beside the policy's verdict, what leaves, where it stands.

Pure; it reads no file, and decides nothing that `consent.py` does not decide by the same functions.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from common.ids import Digest
from common.terms import Terms
from site_agent.app.ports import UnreadableVerdict, Verdict
from site_agent.domain.policy import SitePolicy
from site_agent.domain.term_rules import SCORED_STRATEGIES, TermVerdict, judge_terms


@dataclass(frozen=True, slots=True, kw_only=True)
class Review:
    """One run.

    Attributes:
        state: In words: ``awaiting approval``, ``approved``, ``declined``, ``approved by policy``, ``verdict
            unreadable``, which holds the run as no approval does, or ``outside the policy``, which a person's approval
            does not change.
        leaves: What leaves the site when it takes part, a sentence each.
    """

    run: str
    terms_digest: Digest
    state: str
    first_seen_at: datetime
    verdict: Verdict | None
    terms: tuple[TermVerdict, ...]
    leaves: tuple[str, ...]


def review(
    terms: Terms, first_seen_at: datetime, verdict: Verdict | UnreadableVerdict | None, policy: SitePolicy
) -> Review:
    """The run of ``terms``, under the site's ``policy`` and what a person said."""
    judged = judge_terms(terms, policy, is_trained="train" in policy.kinds)
    return Review(
        run=terms.name,
        terms_digest=terms.digest,
        state=_state(judged, verdict, policy),
        first_seen_at=first_seen_at,
        verdict=None if isinstance(verdict, UnreadableVerdict) else verdict,
        terms=judged,
        leaves=_leaves(terms, policy),
    )


def _state(judged: tuple[TermVerdict, ...], verdict: Verdict | UnreadableVerdict | None, policy: SitePolicy) -> str:
    if not all(each.is_allowed for each in judged):
        return "outside the policy"
    if isinstance(verdict, UnreadableVerdict):
        return "verdict unreadable"
    if verdict is not None:
        return "approved" if verdict.is_approved else "declined"
    return "approved by policy" if policy.has_standing_approval else "awaiting approval"


def _leaves(terms: Terms, policy: SitePolicy) -> tuple[str, ...]:
    egress = policy.egress
    sentences = []
    if "train" in policy.kinds:
        bounds = [f"of at least {egress.min_examples} examples"] if egress.min_examples else []
        bounds += [f"of norm {egress.max_norm:g} at most"] if math.isfinite(egress.max_norm) else []
        sentences.append(
            f"In each of {terms.rounds.count} rounds an update: factors of rank {terms.lora.lora_rank} "
            f"in {terms.aggregation.wire_dtype}{', ' if bounds else ''}{', '.join(bounds)}."
        )
        sentences.append("The coordinator sees each update by itself.")
        if terms.aggregation.strategy in SCORED_STRATEGIES:
            sentences.append("So does the consortium's evaluator, which scores it.")
    sentences.append(f"Of what is measured: {', '.join(sorted(egress.metrics))}.")
    if egress.smallest_cell:
        sentences.append(f"No count of 1 to {egress.smallest_cell - 1}.")
    told = "with" if egress.may_tell_losses else "without"
    sentences.append(f"Reports of progress, {told} the training loss.")
    return tuple(sentences)


def as_text(reviewed: Review) -> str:
    """For a terminal: a line for each field of the terms, what the policy says first."""
    lines = [f"run {reviewed.run}: {reviewed.state}", f"  terms {reviewed.terms_digest}"]
    lines.append(f"  first seen {reviewed.first_seen_at:%Y-%m-%d %H:%M} {reviewed.first_seen_at.tzname()}")
    if reviewed.verdict is not None:
        said = "approved" if reviewed.verdict.is_approved else "declined"
        because = f": {reviewed.verdict.because}" if reviewed.verdict.because else ""
        lines.append(f"  {said} by {reviewed.verdict.by} at {reviewed.verdict.at:%Y-%m-%d %H:%M} UTC{because}")
    for each in reviewed.terms:
        mark = "ok     " if each.is_allowed else "OUTSIDE"
        policy = f" [policy: {each.expected}]" if each.expected else ""
        lines.append(f"  {mark} {each.words}{policy}")
    return "\n".join([*lines, "  what leaves:", *(f"    {sentence}" for sentence in reviewed.leaves)])


def as_json(reviews: tuple[Review, ...]) -> str:
    """For programs."""
    return json.dumps({"runs": [_document(each) for each in reviews]}, indent=2)


def _document(reviewed: Review) -> dict[str, Any]:
    document = asdict(reviewed)
    document["first_seen_at"] = reviewed.first_seen_at.isoformat()
    if reviewed.verdict is not None:
        document["verdict"]["at"] = reviewed.verdict.at.isoformat()
    return document

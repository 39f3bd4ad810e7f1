"""Who is invited to a round, and when there are enough of them to begin. Reads no presence of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from common.ids import AssignmentId, Digest, RunId, SiteName, derived_id
from common.terms import LoraTerms, RoundTerms
from coordinator.domain.values import Phase, RosterEntry, Round, Run


def expected_sites(terms: RoundTerms, enrolled: frozenset[SiteName]) -> frozenset[SiteName]:
    """The sites that the terms name, or every enrolled one when they name none."""
    return frozenset(SiteName(site) for site in terms.sites) or enrolled


def train_assignment_id(run_id: RunId, round_number: int, site: SiteName) -> AssignmentId:
    """The id of a site's TRAIN assignment: a function of what it is for."""
    return AssignmentId(derived_id(run_id, round_number, "train", site))


def kept_updates(run: Run, closed: Round) -> tuple[RosterEntry, ...]:
    """The entries of a closed round whose updates stay: combined, by terms that say so, of sites that have not left."""
    is_kept = run.terms.rounds.keeps_updates and closed.phase in (Phase.COMMITTED, Phase.REJECTED)
    return tuple(entry for entry in closed.accepted if not entry.is_withdrawn) if is_kept else ()


def score_assignment_id(run_id: RunId, round_number: int, evaluator: SiteName, site: SiteName) -> AssignmentId:
    """The id of an evaluator's SCORE assignment for the update of ``site``."""
    return AssignmentId(derived_id(run_id, round_number, "score", evaluator, site))


def evaluate_assignment_id(run_id: RunId, round_number: int, evaluator: SiteName) -> AssignmentId:
    """The id of an evaluator's EVALUATE assignment."""
    return AssignmentId(derived_id(run_id, round_number, "evaluate", evaluator))


def initialise_assignment_id(run_id: RunId, evaluator: SiteName) -> AssignmentId:
    """The id of an evaluator's INITIALISE assignment."""
    return AssignmentId(derived_id(run_id, 0, "initialise", evaluator))


def state_id(run_id: RunId, round_number: int) -> AssignmentId:
    """The id under which a strategy's state after a round is kept, beside the round's updates."""
    return AssignmentId(derived_id(run_id, round_number, "state"))


def part_id(run_id: RunId, round_number: int, source: Digest, start: int, stop: int) -> AssignmentId:
    """The id under which a part of an adapter is kept for a round, beside its updates."""
    return AssignmentId(derived_id(run_id, round_number, "part", source, start, stop))


def invite(run_id: RunId, round_number: int, sites: frozenset[SiteName]) -> tuple[RosterEntry, ...]:
    """A roster in which every one of ``sites`` is invited, sorted by site.

    Absent sites are invited too: they may come back before the deadline, and the roster says if they did not.
    """
    return tuple(
        RosterEntry(site=site, assignment_id=train_assignment_id(run_id, round_number, site)) for site in sorted(sites)
    )


def with_ranks(
    roster: tuple[RosterEntry, ...], terms: LoraTerms, max_lora_ranks: Mapping[SiteName, int]
) -> tuple[RosterEntry, ...]:
    """The roster with the rank at which each site trains: the largest that it and the terms allow.

    A site that has not said how far it goes, because it has not called lately, trains at the least rank. One whose
    policy does not reach that declines for itself.
    """
    if not terms.least_lora_rank:
        return roster
    ranks = {
        entry.site: max(terms.least_lora_rank, min(terms.lora_rank, max_lora_ranks[entry.site] or terms.lora_rank))
        for entry in roster
        if entry.site in max_lora_ranks
    }
    return tuple(replace(entry, lora_rank=ranks.get(entry.site, terms.least_lora_rank)) for entry in roster)

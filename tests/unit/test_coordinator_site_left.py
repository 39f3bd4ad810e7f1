"""A site that is banned or withdraws in the middle of a round: what becomes of the round."""

from __future__ import annotations

import pytest

from common.errors import Reason
from common.ids import SiteName
from common.terms import GateMetric, GateTerms
from coordinator.domain import events as ev
from coordinator.domain.values import Phase, SiteOutcome
from tests.fakes.coordinator_rounds import PLUS_AGGREGATION, update_scored
from tests.fakes.coordinator_values import (
    ANNA,
    BERTA,
    CLARA,
    SITES,
    accepted,
    after,
    aggregating_run,
    at,
    everyone_present,
    make_terms,
    open_round_of,
    selecting_run,
    training_run,
)


def left(site: SiteName, reason: Reason = Reason.SITE_WITHDRAWN) -> ev.SiteLeft:
    return ev.SiteLeft(at=at(15), site=site, reason=reason)


@pytest.mark.parametrize("has_answered", [True, False])
def test_its_part_is_declined_with_the_reason_and_its_update_is_not_combined(has_answered: bool) -> None:
    answers = [accepted(ANNA)] if has_answered else []
    current = open_round_of(after(training_run(), *answers, left(ANNA, Reason.SITE_BANNED)))
    anna = next(entry for entry in current.roster if entry.site == ANNA)
    assert (anna.outcome, anna.reason, anna.update) == (SiteOutcome.DECLINED, Reason.SITE_BANNED, None)
    assert current.phase is Phase.TRAINING


def test_a_round_that_waited_for_it_alone_goes_on() -> None:
    run = after(training_run(), accepted(ANNA), accepted(BERTA), left(CLARA))
    assert open_round_of(run).phase is Phase.AGGREGATING


def test_a_round_whose_quorum_is_out_of_reach_without_it_fails() -> None:
    run = after(training_run(), left(ANNA), left(BERTA))
    assert (run.rounds[-1].phase, run.rounds[-1].reason) == (Phase.FAILED, Reason.QUORUM_IMPOSSIBLE)


def test_an_update_that_is_being_combined_stays_in_the_round() -> None:
    run = aggregating_run()
    assert after(run, left(ANNA)) == run


def test_a_site_that_is_not_in_the_round_changes_nothing() -> None:
    run = training_run()
    assert after(run, left(SiteName("somebody"))) == run


def test_an_update_is_scored_no_more_and_the_last_one_lacking_a_score_ends_the_scoring() -> None:
    terms = make_terms(aggregation=PLUS_AGGREGATION, gate=GateTerms(metric=GateMetric.NONE))
    scoring = after(training_run(terms), *(accepted(site) for site in SITES))
    assert open_round_of(scoring).phase is Phase.SCORING
    run = after(scoring, update_scored(ANNA), update_scored(BERTA), left(CLARA))
    current = open_round_of(run)
    assert (current.phase, {entry.site for entry in current.accepted}) == (Phase.AGGREGATING, {ANNA, BERTA})


def test_a_site_that_is_out_is_not_invited_although_the_terms_name_it() -> None:
    observed = everyone_present()
    out = ev.PresenceObserved(
        at=observed.at,
        present=observed.present - {ANNA},
        enrolled=observed.enrolled - {ANNA},
        evaluators=observed.evaluators,
        out=frozenset({ANNA}),
    )
    current = open_round_of(after(selecting_run(), out))
    assert (current.phase, {entry.site for entry in current.roster}) == (Phase.TRAINING, {BERTA, CLARA})

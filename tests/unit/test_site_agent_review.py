"""What a person reads before approving a run: every field in words, the policy beside it, and what leaves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from common.strategy_terms import FedMedLoraPlusTerms
from common.terms import AggregationTerms
from demo.policy import Egress
from site_agent.app.ports import UnreadableVerdict, Verdict
from site_agent.app.review import as_json, as_text, review
from tests.fakes.site_policies import awaiting_approval, policy_for
from tests.fakes.site_scene import NOON
from tests.fakes.site_values import UNAPPROVED, make_terms

YES = Verdict(is_approved=True, by="alice", at=NOON)
NO = Verdict(is_approved=False, by="alice as fedmed", at=NOON, because="the board said no")


def test_the_state_is_what_the_agent_would_do(tmp_path: Path) -> None:
    terms, policy = make_terms(), policy_for(tmp_path, make_terms())
    wider = replace(terms, training=replace(terms.training, local_epochs=50))
    asked = awaiting_approval(policy)
    assert review(terms, NOON, None, policy).state == "approved by policy"
    assert review(terms, NOON, None, asked).state == "awaiting approval"
    assert review(terms, NOON, YES, asked).state == "approved"
    assert review(terms, NOON, NO, policy).state == "declined"
    assert review(terms, NOON, UnreadableVerdict(detail="no JSON"), policy).state == "verdict unreadable"
    assert review(wider, NOON, YES, policy).state == "outside the policy"


def test_each_term_stands_in_words_beside_the_policys_verdict(tmp_path: Path) -> None:
    terms = make_terms()
    wider = replace(terms, training=replace(terms.training, learning_rate=0.5))
    said = as_text(review(wider, NOON, NO, policy_for(tmp_path, terms)))
    assert "  OUTSIDE The learning rate is 0.5. [policy: 0.0002 (the default: the policy does not name it)]" in said
    assert "  ok      The adapter has rank 2: the higher, the more it can hold. [policy: 1 to 2]" in said
    assert "declined by alice as fedmed at 2026-03-02 12:00 UTC: the board said no" in said
    assert wider.digest in said


def test_what_leaves_is_said_with_its_bounds(tmp_path: Path) -> None:
    egress = Egress(min_examples=30, max_norm=4.0, metrics=("num_examples",), smallest_cell=5, progress_losses=False)
    leaves = " ".join(review(make_terms(), NOON, None, policy_for(tmp_path, make_terms(), egress=egress)).leaves)
    for part in (
        "3 rounds",
        "rank 2",
        "bf16",
        "30 examples",
        "norm 4",
        "num_examples",
        "1 to 4",
        "without the training",
    ):
        assert part in leaves
    assert "evaluator" not in leaves


def test_a_strategy_that_shows_the_update_to_an_evaluator_says_so() -> None:
    plus = AggregationTerms(strategy="fed_medlora_plus", fed_medlora_plus=FedMedLoraPlusTerms())
    reviewed = review(replace(make_terms(), aggregation=plus), NOON, None, UNAPPROVED)
    assert "So does the consortium's evaluator, which scores it." in reviewed.leaves
    assert all(each.is_allowed for each in reviewed.terms), "without a written policy a person decides"


def test_programs_read_the_same(tmp_path: Path) -> None:
    (run,) = json.loads(as_json((review(make_terms(), NOON, YES, policy_for(tmp_path, make_terms())),)))["runs"]
    assert (run["run"], run["terms_digest"], run["state"]) == ("trial", make_terms().digest, "approved")
    assert run["verdict"] == {"is_approved": True, "by": "alice", "at": NOON.isoformat(), "because": ""}
    assert {"path", "words", "got", "expected", "is_allowed"} == set(run["terms"][0])

"""Runs and rounds as the store writes them: read back, every field is there with its type."""

from __future__ import annotations

import json

from hypothesis import given, settings

from coordinator.adapters.storage.codec import decode_round, decode_run, encode_round, encode_run
from coordinator.domain.values import Phase, Run
from tests.fakes.coordinator_rounds import in_phase
from tests.fakes.coordinator_run_strategies import runs


@settings(max_examples=100, deadline=None)
@given(run=runs())
def test_any_run_is_decoded_as_it_was_encoded(run: Run) -> None:
    rounds = tuple(decode_round(encode_round(past)) for past in run.rounds)
    decoded = decode_run(encode_run(run), rounds)
    assert decoded == run
    assert decoded.terms.digest == run.terms.digest
    # Types too: a 1 is not a 1.0, a tuple is not a list; the decoder names UTC in a way of its own.
    assert repr(decoded).replace("TzInfo(0)", "datetime.timezone.utc") == repr(run)


@settings(max_examples=20, deadline=None)
@given(run=runs())
def test_a_run_is_encoded_without_its_rounds(run: Run) -> None:
    assert '"rounds":[]' in encode_run(run)


def test_a_round_of_yesterday_is_read_with_what_it_did_not_know_yet() -> None:
    current = in_phase(Phase.EVALUATING)
    document = json.loads(encode_round(current))
    del document["is_weighed_by_size"]
    for entry in document["roster"]:
        del entry["scores"]
    assert decode_round(json.dumps(document)) == current

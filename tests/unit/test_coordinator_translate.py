"""Messages of agents as the coordinator's values: what is refused before any use case sees it."""

from __future__ import annotations

import pytest
from google.protobuf.duration_pb2 import Duration

from common.errors import InputInvalidError, Reason
from coordinator.adapters.rpc.translate import scores_from
from fedmedlora.v1 import rounds_pb2


@pytest.mark.parametrize(
    "duration", [Duration(seconds=2**62), Duration(seconds=-1), Duration(nanos=-1), Duration(nanos=10**9)]
)
def test_scores_with_an_impossible_duration_are_refused(duration: Duration) -> None:
    with pytest.raises(InputInvalidError, match=r"scores\.duration") as caught:
        scores_from(rounds_pb2.EvaluationScores(mean_loss=1.0, num_examples=1, duration=duration))
    assert caught.value.reason is Reason.FIELD_INVALID


def test_scores_say_how_long_they_took_or_nothing() -> None:
    took = Duration(seconds=90, nanos=500_000_000)
    assert scores_from(rounds_pb2.EvaluationScores(duration=took)).duration_seconds == 90.5
    assert scores_from(rounds_pb2.EvaluationScores()).duration_seconds == 0.0

"""Words for a terminal, also for what a newer coordinator says."""

from __future__ import annotations

from typing import cast

import pytest

from coordinator import cli_text
from fedmedlora.v1 import admin_pb2, errors_pb2

NEWER = 9999


def test_a_reason_is_its_name_and_none_is_nothing() -> None:
    assert cli_text.reason(errors_pb2.REASON_OUT_OF_MEMORY) == "OUT_OF_MEMORY"
    assert cli_text.reason(errors_pb2.REASON_UNSPECIFIED) == ""


def test_a_reason_of_a_newer_coordinator_is_its_number() -> None:
    assert cli_text.reason(cast(errors_pb2.Reason.ValueType, NEWER)) == "reason 9999"


@pytest.mark.parametrize("word", [cli_text.phase, cli_text.state, cli_text.outcome])
def test_a_value_of_a_newer_coordinator_is_its_number(word: object) -> None:
    assert callable(word)
    assert word(NEWER) == "9999"


def test_a_value_is_the_last_part_of_its_name() -> None:
    assert cli_text.phase(admin_pb2.PHASE_TRAINING) == "training"
    assert cli_text.outcome(admin_pb2.SITE_OUTCOME_STRAGGLER) == "straggler"

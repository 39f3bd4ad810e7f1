"""What an agent and its coordinator say over TLS is heard by the tap (`wiretap.py`), and both notice nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.running import free_port, make_consortium, running_coordinator  # isort: skip  (hardens TLS first)

import grpc

from common.ids import Role
from common.tls import CHANNEL_OPTIONS, channel_credentials, load_identity
from fedmedlora.v1 import rounds_pb2, rounds_pb2_grpc
from tests.e2e.wiretap import Wiretap

CALL_SECONDS = 30.0
WORD = "Zanzibarine"


def test_a_word_in_a_message_is_heard_and_the_call_answered_as_without_the_tap(tmp_path: Path) -> None:
    consortium = make_consortium(tmp_path)
    anna = load_identity(consortium.identity("anna", Role.SITE))
    with running_coordinator(consortium) as coordinator:
        tap = Wiretap(
            folder=tmp_path,
            coordinator=consortium.identity("coordinator", Role.COORDINATOR),
            port=free_port(),
            target=coordinator.port,
        )
        address, credentials = f"localhost:{tap.port}", channel_credentials(anna)
        with tap, grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS) as channel:
            request = rounds_pb2.DeclineAssignmentRequest(assignment_id=WORD)
            with pytest.raises(grpc.RpcError) as refused:
                rounds_pb2_grpc.RoundServiceStub(channel).DeclineAssignment(request, timeout=CALL_SECONDS)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert any(WORD.encode() in each for each in tap.said())

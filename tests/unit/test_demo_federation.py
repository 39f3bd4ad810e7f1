"""How the demo waits for its coordinator."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from common.errors import Reason, UnavailableError
from demo import federation
from demo.processes import ProcessGroup


def test_a_coordinator_that_answers_but_does_not_serve_yet_is_asked_again_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[bool | None] = [None, False, False, True]
    slept: list[float] = []

    async def ask(_address: str, _identity: Path) -> bool:
        answer = answers.pop(0)
        if answer is None:
            raise UnavailableError(Reason.PEER_AWAY, "it does not listen")
        return answer

    monkeypatch.setattr(federation, "_is_serving", ask)
    monkeypatch.setattr(time, "sleep", slept.append)

    federation._wait_until_serving("localhost:1", tmp_path, ProcessGroup(tmp_path))

    assert (answers, len(slept)) == ([], 3)

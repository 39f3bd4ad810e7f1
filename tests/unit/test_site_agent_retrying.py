from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from common.errors import (
    FedMedError,
    InputInvalidError,
    NotAllowedError,
    NotFoundError,
    NotNowError,
    OverloadedError,
    Reason,
    TransferBrokenError,
    UnauthenticatedError,
    UnavailableError,
    UpdateRefusedError,
)
from common.tls import CHANNEL_OPTIONS
from site_agent.app.retrying import Patience, keep_trying


@dataclass
class Call:
    """Fails as told, then succeeds; notes each wait."""

    errors: list[FedMedError]
    waits: list[float] = field(default_factory=list)
    told: list[tuple[Reason, int, float]] = field(default_factory=list)

    async def __call__(self) -> str:
        if self.errors:
            raise self.errors.pop(0)
        return "done"

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    def tell(self, error: FedMedError, attempt: int, seconds: float) -> None:
        self.told.append((error.reason, attempt, seconds))

    async def run(self) -> str:
        patience = Patience(base_seconds=1.0, cap_seconds=5.0, sleep=self.sleep, jitter=lambda: 1.0)
        return await keep_trying(self, patience, self.tell)


async def test_waits_grow_up_to_their_cap_and_each_failure_is_told() -> None:
    call = Call([UnavailableError(Reason.PEER_AWAY, "away")] * 5)
    assert await call.run() == "done"
    assert call.waits == [1.0, 2.0, 4.0, 5.0, 5.0]
    assert [(attempt, seconds) for _, attempt, seconds in call.told] == list(enumerate(call.waits, start=1))


@pytest.mark.parametrize(
    "kind", [UnavailableError, OverloadedError, TransferBrokenError, UnauthenticatedError, FedMedError]
)
async def test_what_may_pass_is_waited_for(kind: type[FedMedError]) -> None:
    assert await Call([kind(Reason.INTERNAL, "this time")]).run() == "done"


@pytest.mark.parametrize("kind", [InputInvalidError, NotAllowedError, NotFoundError, NotNowError, UpdateRefusedError])
async def test_a_clear_no_is_not_repeated(kind: type[FedMedError]) -> None:
    call = Call([kind(Reason.ROUND_CLOSED, "never")])
    with pytest.raises(kind):
        await call.run()
    assert (call.errors, call.waits) == ([], [])


def test_an_agent_is_back_soon_after_a_short_outage_and_within_ten_seconds_of_a_long_one() -> None:
    patience = Patience(jitter=lambda: 1.0)
    assert sum(patience.wait_seconds(attempt) for attempt in range(3)) <= 2.0
    assert max(patience.wait_seconds(attempt) for attempt in range(100)) <= 10.0
    # Until gRPC connects again, an attempt fails whatever the link is like.
    assert dict(CHANNEL_OPTIONS)["grpc.max_reconnect_backoff_ms"] <= 1_000

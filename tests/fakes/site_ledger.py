"""Messages and a clock for tests of the egress ledger. Opens nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from common.ids import digest_of
from site_agent.domain.ledger import About, OutgoingMessage, TensorNorm

START = datetime(2026, 11, 27, 8, 0, tzinfo=UTC)
SITE = "spiffe://demo/site/anna"


class SetClock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.at = START

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return (self.at - START).total_seconds()

    def move(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


def make_message(
    rpc: str = "DeclineAssignment", content: bytes = b"no", about: About | None = None, tensors: int = 0
) -> OutgoingMessage:
    """A message of ``content``; with ``tensors`` the header of a file's stream."""
    return OutgoingMessage(
        rpc=rpc,
        size_bytes=len(content),
        digest=digest_of(content),
        fields=("assignment_id", "reason"),
        about=about or About(run="trial", round_number=1, assignment_id="a" * 32),
        file_digest=digest_of(b"file") if tensors else "",
        file_bytes=1_000 * tensors,
        tensors=tuple(TensorNorm(name=f"t{number}", shape=(2, 6), norm=3.0) for number in range(tensors)),
    )

"""What ledger, policy and signature cost an upload of 84 MB: with and without them, in turns, in one run.

A coordinator as its own process over mutual TLS; this process plays the one site, with the agent's own functions: the
update's digest, then the policy's checks of the file and of how far it moved, the signature, and the upload over a
recorded channel. *Bare* has the digest and the upload alone. Each part is timed apart, too.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from unittest import mock

from common.tls import harden_tls

harden_tls()  # before anything imports grpc: TLS 1.3 only
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import asyncio  # noqa: E402

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks.machine import parser, write_figures  # noqa: E402
from benchmarks.played import Played, global_adapter, next_assignment, playing, told  # noqa: E402
from common.signing import UpdateStatement, load_signing_key  # noqa: E402
from site_agent.adapters import rpc_client  # noqa: E402
from site_agent.adapters.outgoing import norms_of  # noqa: E402
from site_agent.adapters.update_file import describe_file, measure_move  # noqa: E402
from site_agent.app.answers import UploadHeader  # noqa: E402
from site_agent.app.ports import DescribedFile  # noqa: E402
from site_agent.domain.assignment import Assignment, TrainWork  # noqa: E402
from site_agent.domain.egress import judge_file, judge_norm, judge_tensors  # noqa: E402
from site_agent.domain.ledger import Delivery, OutgoingMessage  # noqa: E402
from site_agent.domain.policy import unwritten_policy  # noqa: E402

SITE = "site-1"


class _Nothing:
    """A `Recorder` that writes nothing down."""

    def record(self, message: OutgoingMessage) -> None:
        """Let it leave."""

    def settle(self, ticket: None, delivery: Delivery) -> None:
        """Whatever became of it."""


class Parts:
    """Seconds of each part of one upload."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timing(self, name: str) -> Iterator[None]:
        """Time the block as ``name``."""
        began = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


def check(played: Played, assignment: Assignment, path: Path, file: DescribedFile) -> None:
    """The policy's checks, as `site_agent.app.give_answer` makes them."""
    policy = unwritten_policy({"train"}, {played.terms.aggregation.strategy})
    assert isinstance(assignment.work, TrainWork)
    decisions = (
        judge_file(file.layout, assignment.work.update_spec),
        judge_tensors(file.layout, file.size_bytes, policy),
        judge_norm(measure_move(path, path.with_name("start")), policy.egress),
    )
    assert all(decision.is_allowed for decision in decisions), decisions


async def send(played: Played, assignment: Assignment, path: Path, *, is_trusted: bool) -> dict[str, object]:
    """Send the global adapter back as an update, with what makes it one to trust, or without."""
    parts, key = Parts(), load_signing_key(played.home(SITE) / "identity")
    async with played.site(SITE) as site:
        content = await global_adapter(site, assignment, path)
        path.with_name("start").unlink(missing_ok=True)
        path.with_name("start").hardlink_to(path)
    assert key is not None
    async with played.site(SITE, recorder=None if is_trusted else _Nothing()) as site:
        await site.upload_offset(assignment.assignment_id, content.base_digest)  # connects
        began = time.perf_counter()
        with parts.timing("digest"):
            file = describe_file(path)
        header = UploadHeader(
            assignment_id=assignment.assignment_id, digest=file.digest, size_bytes=file.size_bytes, content=content
        )
        tensors: Callable[[Path], tuple[object, ...]] = lambda _path: ()  # noqa: E731 - in the place of a function
        if is_trusted:
            with parts.timing("policy"):
                check(played, assignment, path, file)
            with parts.timing("signature"):
                statement = UpdateStatement(
                    run_id=assignment.run_id,
                    terms_digest=assignment.terms.digest,
                    round_number=assignment.round_number,
                    base_digest=content.base_digest,
                    update_digest=file.digest,
                    num_examples=content.num_examples,
                    num_label_tokens=content.num_label_tokens,
                )
                header = replace(header, signature=key.sign_update(statement))
            tensors = norms_of
        with mock.patch.object(rpc_client, "norms_of", tensors), parts.timing("upload"):
            await site.upload(header, path, 0)
        total = time.perf_counter() - began
    return {"is_trusted": is_trusted, "seconds": total, **parts.seconds}


async def measure(folder: Path, pairs: int) -> list[dict[str, object]]:
    """A round for each upload; the first two warm everything up and do not count."""
    rows = []
    async with playing(folder, [SITE], rounds=2 * pairs + 2) as played:
        last = ""
        for number in range(2 * pairs + 2):
            async with played.site(SITE) as site:
                assignment = await next_assignment(site, after=last)
            last = assignment.assignment_id
            # Which one comes first changes from pair to pair.
            row = await send(played, assignment, folder / "update", is_trusted=number % 4 in (1, 2))
            rows.append(row)
            told(str(row))
    return rows[2:]


def main() -> int:
    """Measure."""
    options = parser(__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--pairs", type=int, default=10)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = asyncio.run(measure(Path(name), given.pairs))
    table = Table("", "seconds", "digest", "policy", "signature", "upload (and ledger)")
    totals = {}
    for is_trusted in (False, True):
        chosen = [row for row in rows if row["is_trusted"] is is_trusted]
        cells = [
            median(float(str(row.get(part, 0.0))) for row in chosen)
            for part in ("seconds", "digest", "policy", "signature", "upload")
        ]
        totals[is_trusted] = cells[0]
        table.add_row("all of them" if is_trusted else "bare", *(f"{cell:.3f}" for cell in cells))
    Console().print(table, f"{totals[True] / totals[False]:.2f} times")
    write_figures(given.json, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""How soon a ban ends an upload that is under way: bans in the middle of 84 MB, one site after the other.

A coordinator as its own process over mutual TLS. Each site sends its update as fast as it can; when half of it has been
handed over, the operator bans it. Measured from that moment: until the operator has the answer, after which nothing of
the site is taken any more, and until the site's stream has ended. The site then asks again, and is told of the ban.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from common.tls import harden_tls

harden_tls()  # before anything imports grpc: TLS 1.3 only
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import asyncio  # noqa: E402

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks.machine import parser, write_figures  # noqa: E402
from benchmarks.played import Counted, Played, global_adapter, next_assignment, playing, told  # noqa: E402
from common.errors import FedMedError, Reason  # noqa: E402
from common.weights_io import file_digest  # noqa: E402
from site_agent.app.answers import UploadHeader  # noqa: E402
from site_agent.domain.assignment import Assignment  # noqa: E402


async def ban_once(played: Played, name: str, assignment: Assignment, folder: Path) -> dict[str, object]:
    """Let ``name`` send its update, and ban it half way."""
    path, half_sent, seconds = folder / name, asyncio.Event(), {}

    def count(sent_bytes: int) -> None:
        if sent_bytes >= path.stat().st_size / 2:
            half_sent.set()

    async with played.site(name, Counted(count)) as site:
        content = await global_adapter(site, assignment, path)
        header = UploadHeader(
            assignment_id=assignment.assignment_id,
            digest=file_digest(path),
            size_bytes=path.stat().st_size,
            content=content,
        )

        async def upload() -> str:
            try:
                await site.upload(header, path, 0)
            except FedMedError as error:
                return str(error.reason)
            finally:
                seconds["stream"] = time.monotonic()
            return "accepted"

        async def ban() -> None:
            await half_sent.wait()
            seconds["asked"] = time.monotonic()
            await played.operator.ban_site(name)
            seconds["answer"] = time.monotonic()

        ended, _ = await asyncio.gather(upload(), ban())
        try:
            await site.upload_offset(assignment.assignment_id, header.digest)
            after = "served"
        except FedMedError as error:
            after = str(error.reason)
    path.unlink()
    return {
        "site": name,
        "ended": ended,
        "told_after": after,
        "answer_seconds": seconds["answer"] - seconds["asked"],
        "stream_seconds": seconds["stream"] - seconds["asked"],
    }


async def measure(folder: Path, bans: int) -> list[dict[str, object]]:
    """Ban ``bans`` sites, and leave one that holds the round open."""
    names = [f"site-{number}" for number in range(bans + 1)]
    async with playing(folder, names, rounds=1) as played:

        async def invited(name: str) -> Assignment:
            async with played.site(name) as site:
                return await next_assignment(site)

        assignments = await asyncio.gather(*map(invited, names))
        rows = []
        for name, assignment in list(zip(names, assignments, strict=True))[1:]:
            rows.append(await ban_once(played, name, assignment, folder))
            told(str(rows[-1]))
        return rows


def main() -> int:
    """Measure; exit code 1 when an update was accepted before its ban came, or its site was served after it."""
    options = parser(__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--bans", type=int, default=20)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        rows = asyncio.run(measure(Path(name), given.bans))
    table = Table("milliseconds until", "least", "median", "most")
    for kind in ("answer_seconds", "stream_seconds"):
        values = [1000 * float(str(row[kind])) for row in rows]
        table.add_row(kind.partition("_")[0], f"{min(values):.0f}", f"{median(values):.0f}", f"{max(values):.0f}")
    Console().print(table)
    write_figures(given.json, rows)
    return int(any(row["ended"] == "accepted" or row["told_after"] != Reason.SITE_BANNED for row in rows))


if __name__ == "__main__":
    sys.exit(main())

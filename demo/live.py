"""Follows the demo's run by the coordinator's own WatchRun stream, and watches over the processes meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, Group, RenderableType

from coordinator import cli_text
from coordinator.adapters.rpc.operator_client import connect
from coordinator.cli_live import showing
from fedmedlora.v1 import admin_pb2

CHECK_SECONDS = 1.0


def follow_run(
    address: str, identity: Path, run: str, console: Console, check: Callable[[], None]
) -> admin_pb2.RunReport:
    """Follow a run to its end; ``check`` is called every second, and raises when a process has died."""

    async def follow() -> admin_pb2.RunReport:
        report = admin_pb2.RunReport()
        async with connect(address, identity) as client:
            reports = client.watch_run(run)
            with showing(console, page, is_kept=False) as show:
                while True:
                    coming = asyncio.ensure_future(anext(reports, None))
                    while not (await asyncio.wait({coming}, timeout=CHECK_SECONDS))[0]:
                        check()
                    if (latest := coming.result()) is None:
                        return report
                    show(report := latest)

    return asyncio.run(follow())


def page(report: admin_pb2.RunReport) -> RenderableType:
    """The run as it stands: its story, and the roster of its latest round."""
    story = (*cli_text.rounds_left_out(report), *cli_text.story(report))
    return Group(*story, *(cli_text.round_table(latest) for latest in report.rounds[-1:]))

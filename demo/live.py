"""Shows a run while it goes on: phase, roster, losses, from the coordinator's own WatchRun stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from rich.console import Console, Group, RenderableType
from rich.live import Live

from coordinator import cli_text
from coordinator.adapters.rpc.operator_client import connect
from fedmedlora.v1 import admin_pb2


def follow_run(
    address: str, identity: Path, run: str, console: Console, check: Callable[[], None]
) -> admin_pb2.RunReport:
    """Follow a run to its end; ``check`` is called at each change and raises when a process has died."""

    async def follow() -> admin_pb2.RunReport:
        async with connect(address, identity) as client:
            report = admin_pb2.RunReport()
            with Live(console=console, auto_refresh=False, transient=console.is_terminal) as live:
                async for report in client.watch_run(run):
                    check()
                    if console.is_terminal:
                        live.update(page(report), refresh=True)
            return report

    return asyncio.run(follow())


def page(report: admin_pb2.RunReport) -> RenderableType:
    """The run as it stands: its state, and the roster of its latest round."""
    parts: list[RenderableType] = [f"run {report.summary.name}: {cli_text.state(report.summary.state)}"]
    for past in report.rounds[:-1]:
        seconds = past.duration.ToTimedelta().total_seconds()
        phase = cli_text.phase(past.phase)
        parts.append(f"round {past.round_number}: {phase} in {seconds:.0f} s, {cli_text.scores(past)}")
    for current in report.rounds[-1:]:
        parts.append(cli_text.round_table(current))
    return Group(*parts)

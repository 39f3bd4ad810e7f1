"""``fedmed-coordinator run ...``: what an operator asks of a running coordinator about its runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Annotated, TypeVar

import typer
from rich.console import Console, Group

from common.config import parse_seconds
from common.terms_file import load_terms_toml
from coordinator import cli_text
from coordinator.adapters.rpc.operator_client import OperatorClient, connect
from coordinator.cli_live import showing
from fedmedlora.v1 import admin_pb2

T = TypeVar("T")

runs = typer.Typer(no_args_is_help=True, help="Create, list, show, watch, pause, resume, extend and abort runs.")

Address = Annotated[
    str, typer.Option("--coordinator", envvar="FEDMED_COORDINATOR", help="host:port of the coordinator")
]
IdentityFolder = Annotated[
    Path, typer.Option("--identity", envvar="FEDMED_IDENTITY", help="folder of the operator's certificate")
]
LastRound = Annotated[int, typer.Option(min=0, help="the last round to show; 0 for the latest")]
RunName = Annotated[str, typer.Argument(help="the run's name or id")]


def ask(address: str, identity: Path, work: Callable[[OperatorClient], Coroutine[None, None, T]]) -> T:
    """What ``work`` gets from the coordinator at ``address``, for whoever has ``identity``."""

    async def answer() -> T:
        async with connect(address, identity) as client:
            return await work(client)

    return asyncio.run(answer())


def seconds(text: str) -> float:
    """Seconds of a duration as people type it."""
    try:
        return timedelta(seconds=parse_seconds(text)).total_seconds()
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(str(error)) from None


@runs.command()
def create(
    terms_file: Annotated[Path, typer.Argument(help="the run's terms (TOML)")],
    coordinator: Address,
    identity: IdentityFolder,
) -> None:
    """Create a run from a terms file; it starts at once."""
    terms = load_terms_toml(terms_file)
    created = ask(coordinator, identity, lambda client: client.create_run(terms))
    typer.echo(f"run {terms.name} ({created.run_id}), terms {created.terms_digest}")


@runs.command("list")
def list_runs(coordinator: Address, identity: IdentityFolder) -> None:
    """List all runs, newest first."""
    Console().print(cli_text.runs_table(ask(coordinator, identity, lambda client: client.list_runs())))


@runs.command()
def show(run: RunName, coordinator: Address, identity: IdentityFolder, last_round: LastRound = 0) -> None:
    """Show one run with its rounds and rosters."""
    Console().print(_page(ask(coordinator, identity, lambda client: client.get_run(run, last_round))))


@runs.command()
def watch(run: RunName, coordinator: Address, identity: IdentityFolder) -> None:
    """Follow a run until it ends; exit code 0 when it completed, 3 when it did not."""
    console = Console()

    async def follow(client: OperatorClient) -> int:
        report = admin_pb2.RunReport()
        with showing(console, _page, is_kept=True) as show:
            async for report in client.watch_run(run):
                show(report)
        if not console.is_terminal:
            console.print(_page(report))
        return report.summary.state

    if ask(coordinator, identity, follow) != admin_pb2.RUN_STATE_COMPLETED:
        raise typer.Exit(3)


@runs.command()
def abort(run: RunName, coordinator: Address, identity: IdentityFolder) -> None:
    """Abort a run; its agents stop training."""
    ask(coordinator, identity, lambda client: client.abort_run(run))
    typer.echo(f"run {run} is aborted")


@runs.command()
def pause(run: RunName, coordinator: Address, identity: IdentityFolder) -> None:
    """Hold a run: nothing new begins, deadlines stand still, and what agents work on is still taken."""
    ask(coordinator, identity, lambda client: client.pause_run(run))
    typer.echo(f"run {run} is paused")


@runs.command()
def resume(run: RunName, coordinator: Address, identity: IdentityFolder) -> None:
    """Let a paused run go on; its deadlines have moved on by the time that it was held."""
    ask(coordinator, identity, lambda client: client.resume_run(run))
    typer.echo(f"run {run} goes on")


@runs.command()
def extend(
    run: RunName,
    by: Annotated[
        float,
        typer.Option("--by", metavar="DURATION", parser=seconds, help='as "2h": no open deadline comes before that'),
    ],
    coordinator: Address,
    identity: IdentityFolder,
) -> None:
    """Give a run more time."""
    deadlines = ask(coordinator, identity, lambda client: client.extend_deadline(run, by))
    typer.echo("\n".join(map(cli_text.deadline, deadlines)) or f"run {run} is paused, or waits for no deadline now")


def _page(report: admin_pb2.RunReport) -> Group:
    head = f"{report.summary.name}: {cli_text.state(report.summary.state)} {cli_text.reason(report.summary.reason)}"
    parts: list[object] = [head.strip(), f"terms {report.terms_digest}"]
    parts.extend(["paused"] if report.summary.is_paused else map(cli_text.deadline, report.deadlines))
    parts.extend([*cli_text.evaluators(report), *cli_text.holds(report)])
    parts.extend(cli_text.rounds_left_out(report))
    for past in report.rounds:
        parts.extend([cli_text.round_table(past), *cli_text.evaluators(past)])
        if line := cli_text.scores(past):
            parts.append(f"candidate: {line}")
    if report.served_folder:
        parts.append(
            f"served: version {report.served_version}, {report.served_folder} in the coordinator's state folder"
        )
    return Group(*parts)  # type: ignore[arg-type]

"""The commands ``fedmed-site ledger``: what left this site, checked. They read; nothing is sent or changed."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from common.hash_chain import ChainHead
    from site_agent.adapters.ledger_reading import CheckedLedger
    from site_agent.app.ledger_rows import LedgerRow, Selection

ledger = typer.Typer(no_args_is_help=True, help="What left this site: every message, in a chain that shows changes.")

ConfigFile = Annotated[Path, typer.Option("--config", help="the agent's configuration (TOML)")]
Run = Annotated[str, typer.Option("--run", help="only what belongs to the run of this name")]
Since = Annotated[datetime | None, typer.Option("--since", help="only what left at or after this time (UTC)")]
Until = Annotated[datetime | None, typer.Option("--until", help="only what left before this time (UTC)")]


@ledger.command("list")
def list_entries(config: ConfigFile, run: Run = "", since: Since = None, until: Until = None) -> None:
    """List what left, oldest first, one message or fold of messages a line."""
    for row in filter(_selection(run, since, until).takes, _checked(config).rows()):
        typer.echo(_line(row))


@ledger.command()
def verify(
    config: ConfigFile,
    head: Annotated[str, typer.Option("--head", help="a head that was written down, as `verify` prints it")] = "",
) -> None:
    """Check every link of the chain, and print its head, which is worth keeping elsewhere."""
    checked = _checked(config, _head(head))
    kept = ", and the head that was given is in it" if head else ""
    typer.echo(f"{checked.head.sequence} entries in {len(checked.segments)} files hold together{kept}")
    if checked.start.sequence:
        typer.echo(f"the first {checked.start.sequence} entries are not here: their files were taken away")
    if checked.mended or checked.torn_bytes:
        typer.echo(f"a program was killed while it wrote {checked.mended + bool(checked.torn_bytes)} times; told there")
    typer.echo(f"head {checked.head}")


@ledger.command()
def export(
    config: ConfigFile,
    csv: Annotated[Path, typer.Option("--csv", help="file to write; - for standard output")],
    run: Run = "",
    since: Since = None,
    until: Until = None,
) -> None:
    """Write what left as CSV."""
    import io

    from common.files import write_whole
    from site_agent.adapters.ledger_export import write_csv

    rows = filter(_selection(run, since, until).takes, _checked(config).rows())
    if str(csv) == "-":
        write_csv(rows, sys.stdout)
        return
    text = io.StringIO(newline="")
    count = write_csv(rows, text)
    write_whole(csv, text.getvalue().encode())
    typer.echo(f"{csv}: {count} rows")


@ledger.command()
def report(
    config: ConfigFile,
    out: Annotated[Path, typer.Option("--out", help="HTML file to write")],
    run: Run = "",
    since: Since = None,
    until: Until = None,
) -> None:
    """Write one page about what left, for people; it prints on a sheet of A4."""
    from common.clock import SystemClock
    from common.files import write_whole
    from site_agent.adapters.ledger_report import ReportFacts
    from site_agent.adapters.ledger_report import report as page

    checked, selection = _checked(config), _selection(run, since, until)
    facts = ReportFacts(
        site=checked.site or "this site",
        made_at=SystemClock().now(),
        selection=selection,
        start=checked.start,
        head=checked.head,
        mended=checked.mended,
    )
    write_whole(out, page(filter(selection.takes, checked.rows()), facts).encode())
    typer.echo(f"{out}: of {checked.head.sequence} entries")


def _checked(config: Path, kept: ChainHead | None = None) -> CheckedLedger:
    from common.config import load_toml
    from site_agent.adapters.ledger_reading import check_ledger
    from site_agent.config import SiteConfig

    return check_ledger(load_toml(config.absolute(), SiteConfig).site.state_folder, kept)


def _selection(run: str, since: datetime | None, until: datetime | None) -> Selection:
    from site_agent.app.ledger_rows import Selection

    return Selection(run=run, since=_utc(since), until=_utc(until))


def _utc(at: datetime | None) -> datetime | None:
    return None if at is None else at.replace(tzinfo=UTC)


def _head(text: str) -> ChainHead | None:
    from common.hash_chain import parse_head

    try:
        return parse_head(text) if text else None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _line(row: LedgerRow) -> str:
    number = str(row.sequence or "open")
    about = f"{row.about.run or '-'}/{'-' if row.about.round_number is None else row.about.round_number}"
    tensors = f", {row.tensors} tensors of norm {row.norm:.6g}" if row.norm is not None else ""
    reason = f" {row.reason}" if row.reason else ""
    at = row.first_at.strftime("%Y-%m-%dT%H:%M:%SZ")
    what = f"{row.count} x {row.rpc}, {row.size_bytes} bytes{tensors}"
    return f"{number:>7} {at} {about} {what}: {' '.join(row.fields) or 'no field'} [{row.outcome}{reason}]"

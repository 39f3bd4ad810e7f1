"""``fedmed-coordinator site ...``: who is a member, how one becomes one, and who is one no more."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from common.errors import NotFoundError, Reason
from common.ids import Role, SiteName
from common.join_file import JoinFile, write_join_file
from common.tls import Caller, fingerprints_of
from coordinator import cli_text
from coordinator.adapters.rpc.operator_client import OperatorClient
from coordinator.cli_runs import Address, IdentityFolder, ask, seconds

sites = typer.Typer(no_args_is_help=True, help="Invite, list, show, ban and unban sites; revoke certificates.")

SiteArgument = Annotated[str, typer.Argument(metavar="NAME", help="the site's name")]


@sites.command("invite")
def invite(
    name: Annotated[str, typer.Argument(help="the site's name, a DNS label")],
    out: Annotated[Path, typer.Option(help="where the join file goes")],
    coordinator: Address,
    identity: IdentityFolder,
    role: Annotated[str, typer.Option(help="site or evaluator")] = "site",
    valid: Annotated[float, typer.Option(metavar="DURATION", parser=seconds, help='as "3d"')] = "3d",  # type: ignore[assignment]  # parsed
) -> None:
    """Make a join file: whoever has it first becomes that site, so bring it there by a safe way."""
    host = coordinator.rpartition(":")[0]
    join, until = ask(coordinator, identity, lambda client: write_invitation(client, host, (name, role), valid, out))
    typer.echo(f"{out}: for {role} {name}, once, until {until}; it is a secret")
    for fingerprint in fingerprints_of(join.ca_certificate_pem):
        typer.echo(f"to read out on the telephone, CA certificate, SHA-256: {fingerprint}")


async def write_invitation(
    client: OperatorClient, host: str, who: tuple[str, str], valid_seconds: float, out: Path
) -> tuple[JoinFile, str]:
    """Write a join file for ``who``, a name and a role, that enrols at ``host``; and say until when it is good.

    Raises:
        FedMedError: the coordinator said no.
        OSError: the file cannot be written.
    """
    name, role = who
    made = await client.create_join_token(name, role, valid_seconds)
    join = JoinFile(
        address=f"{host}:{made.enrolment_port}",
        caller=Caller(name=SiteName(name), role=Role(role), consortium=made.consortium),
        token=made.token,
        ca_certificate_pem=made.trust_bundle_pem,
    )
    expires_at = cli_text.moment(made.expires_at)
    write_join_file(out, join, expires_at)
    return join, expires_at


@sites.command("list")
def list_sites(coordinator: Address, identity: IdentityFolder) -> None:
    """List every site the coordinator knows, whether it is present, and how it stands."""
    Console().print(cli_text.sites_table(ask(coordinator, identity, lambda client: client.list_sites())))


@sites.command("show")
def show(name: SiteArgument, coordinator: Address, identity: IdentityFolder) -> None:
    """Show one site with its certificates."""
    for site in ask(coordinator, identity, lambda client: client.list_sites()):
        if site.name == name:
            return Console().print(cli_text.site_page(site))
    raise NotFoundError(Reason.SITE_UNKNOWN, f"name: no site is {name}")


@sites.command("ban")
def ban(name: SiteArgument, coordinator: Address, identity: IdentityFolder) -> None:
    """Keep a site out: its calls end at once, and open rounds go on without it."""
    ask(coordinator, identity, lambda client: client.ban_site(name))
    typer.echo(f"{name} is banned")


@sites.command("unban")
def unban(name: SiteArgument, coordinator: Address, identity: IdentityFolder) -> None:
    """Lift a ban."""
    ask(coordinator, identity, lambda client: client.unban_site(name))
    typer.echo(f"{name} is banned no more")


@sites.command("revoke")
def revoke(
    serial: Annotated[str, typer.Argument(help="of the certificate, in hex, as `site show` has it")],
    coordinator: Address,
    identity: IdentityFolder,
) -> None:
    """Revoke one certificate, whoever issued it; its holder may use another."""
    ask(coordinator, identity, lambda client: client.revoke_certificate(serial.lower()))
    typer.echo(f"certificate {serial.lower()} is revoked")

"""``fedmed-coordinator key ...``: signing keys, where the root's key is. Talks to no coordinator."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.files import write_whole
from common.ids import SiteName, check_name
from common.signing import fingerprint
from common.tls import Caller, Role
from coordinator.adapters.pki.ca import load_ca
from coordinator.adapters.pki.key_certification import certify_key

keys = typer.Typer(no_args_is_help=True, help="Certify the keys with which sites sign updates.")

PublicKey = Annotated[str, typer.Argument(help="the public key, 64 hex digits")]


@keys.command("fingerprint")
def show_fingerprint(public_key: PublicKey) -> None:
    """Print what two people compare before the key is certified."""
    typer.echo(fingerprint(public_key))


@keys.command()
def certify(
    name: Annotated[str, typer.Argument(help="the site whose key it is")],
    public_key: PublicKey,
    ca: Annotated[Path, typer.Option(help="the root's folder")],
    out: Annotated[Path, typer.Option(help="the certificate's file: signing_certificate.pem at the site")],
    role: Annotated[Role, typer.Option(help="coordinator, for the key that signs releases")] = Role.SITE,
) -> None:
    """Certify a signing key, once you and its holder have compared the fingerprint out of band."""
    caller = Caller(name=SiteName(check_name(name, "name")), role=role, consortium=load_ca(ca).consortium)
    certificate = certify_key(ca, caller, public_key)
    write_whole(out, certificate.encode("ascii"))
    typer.echo(f"{caller.uri} signs with {fingerprint(public_key)}: {out}")

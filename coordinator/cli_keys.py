"""``fedmed-coordinator key ...``: signing keys, certified and disowned where the root's key is, or revoked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.clock import SystemClock
from common.errors import InputInvalidError, Reason
from common.files import write_whole
from common.ids import SiteName, check_digest, check_name
from common.signing import fingerprint
from common.tls import Caller, Role
from coordinator.adapters.pki.ca import load_ca
from coordinator.adapters.pki.key_certification import certify_key, is_root
from coordinator.app.revoked_keys import RevokedKeys, read_list, sign_list
from coordinator.cli_runs import Address, IdentityFolder, ask

keys = typer.Typer(no_args_is_help=True, help="Certify and revoke the keys with which sites sign updates.")

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


@keys.command()
def revoke(
    key_fingerprint: Annotated[str, typer.Argument(metavar="FINGERPRINT", help="as `site show` has it, `sha256:...`")],
    coordinator: Address,
    identity: IdentityFolder,
) -> None:
    """Let the coordinator take no update any more that this key signs; those in open rounds go, if not combined yet."""
    still_in = ask(coordinator, identity, lambda client: client.revoke_signing_key(key_fingerprint))
    typer.echo(f"signing key {key_fingerprint} is revoked")
    for run, number in still_in:
        typer.echo(f"still in: run {run}, round {number}, which is being combined or scored with an update of this key")


@keys.command()
def disown(
    fingerprints: Annotated[list[str], typer.Argument(help="of the keys, as `key fingerprint` prints them")],
    ca: Annotated[Path, typer.Option(help="the root's folder")],
    out: Annotated[Path, typer.Option(help="the list; keys that it holds stay on it")],
) -> None:
    """Add keys to the root's signed list of revoked ones: `verify --revoked` names what they have signed."""
    root = load_ca(ca)
    if not is_root(ca):
        raise InputInvalidError(Reason.CONFIG_INVALID, f"{ca}: expected the root's folder, got that of a CA below it")
    listed = {check_digest(each, "fingerprint") for each in fingerprints}
    if out.exists():
        listed.update(read_list(out.read_bytes(), root.certificate).keys)
    revoked = RevokedKeys(consortium=root.consortium, made_at=SystemClock().now(), keys=tuple(sorted(listed)))
    write_whole(out, sign_list(revoked, root.key))
    typer.echo(f"{out}: {len(listed)} revoked keys")

"""The operator's command, ``fedmed-coordinator``. Each command is a few lines over the wiring or the client."""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from common.tls import harden_tls

harden_tls()  # before anything imports grpc: TLS 1.3 only

from common.config import load_toml  # noqa: E402
from common.errors import FedMedError  # noqa: E402
from common.logging import configure_logging  # noqa: E402
from common.malloc import tune_malloc  # noqa: E402
from common.tls import Role  # noqa: E402
from coordinator import cli_keys, cli_release, cli_runs, cli_sites  # noqa: E402
from coordinator.adapters.pki.ca import create_ca, create_issuing_ca, issue  # noqa: E402
from coordinator.adapters.pki.certificates import ISSUING_CA_LIFETIME  # noqa: E402
from coordinator.adapters.pki.key_certification import is_root, make_signing_key  # noqa: E402
from coordinator.adapters.pki.trust import distrust, trust  # noqa: E402
from coordinator.adapters.rpc.operator_client import connect  # noqa: E402
from coordinator.config import CoordinatorConfig  # noqa: E402

app = typer.Typer(no_args_is_help=True, help="The consortium's coordinator.", pretty_exceptions_enable=False)
certificates = typer.Typer(no_args_is_help=True, help="Issue and renew certificates.")
app.add_typer(cli_runs.runs, name="run")
app.add_typer(cli_sites.sites, name="site")
app.add_typer(certificates, name="certificate")
authorities = typer.Typer(no_args_is_help=True, help="Roots and issuing CAs, and who trusts them.")
app.add_typer(authorities, name="ca")
app.add_typer(cli_keys.keys, name="key")
app.add_typer(cli_release.audit, name="audit")
app.command()(cli_release.release)
app.command()(cli_release.verify)

ConfigFile = Annotated[Path, typer.Option("--config", help="the coordinator's configuration (TOML)")]
Days = Annotated[float, typer.Option(help="life of the certificate in days")]
Hosts = Annotated[list[str], typer.Option("--host", help="name or address that agents dial (repeatable)")]
TrustingFolders = Annotated[
    list[Path], typer.Option("--in", help="an identity's or an issuing CA's folder, with trust_bundle.pem (repeatable)")
]

_CONFIG = """\
# Configuration of this coordinator; `fedmed-coordinator check-config` explains every key it does not like.
[coordinator]
listen = "0.0.0.0:8443"
state_folder = "{state}"

[identity]
folder = "{identity}"

[enrolment]
listen = "0.0.0.0:8444"
issuing_ca = "{issuing}"

[metrics]
listen = "127.0.0.1:9100"
"""


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(help="an empty folder to make the consortium in")],
    consortium: Annotated[str, typer.Option(help="the consortium's name, a DNS label")],
    host: Hosts,
    days: Days = 7.0,
) -> None:
    """Make a consortium: root and issuing CA, the coordinator's and the operator's certificates, a configuration."""
    create_ca(folder / "ca", consortium)
    issuing = folder / "issuing_ca"
    create_issuing_ca(folder / "ca", issuing)
    life = timedelta(days=days)
    holder = issue(issuing, "coordinator", Role.COORDINATOR, folder / "coordinator", hosts=host, lifetime=life)
    make_signing_key(folder / "ca", holder, folder / "coordinator")
    issue(issuing, "operator", Role.OPERATOR, folder / "operator", lifetime=life)
    config = _CONFIG.format(
        state=(folder / "state").resolve(),
        identity=(folder / "coordinator").resolve(),
        issuing=issuing.resolve(),
    )
    (folder / "coordinator.toml").write_text(config, encoding="utf-8")
    typer.echo(f"consortium {consortium} is in {folder}; move the root, {folder / 'ca'}, offline")
    typer.echo(f"next: fedmed-coordinator serve --config {folder / 'coordinator.toml'}")


@certificates.command("issue")
def issue_certificate(
    name: Annotated[str, typer.Argument(help="the site's name, a DNS label")],
    role: Annotated[Role, typer.Option(help="what the holder may do")],
    ca: Annotated[Path, typer.Option(help="the CA's folder")],
    out: Annotated[Path, typer.Option(help="where key and certificate go")],
    host: Hosts = [],  # noqa: B006
    days: Days = 7.0,
) -> None:
    """Issue a certificate and its key into a folder, to be brought to the site by a safe way."""
    holder = issue(ca, name, role, out, hosts=host, lifetime=timedelta(days=days))
    if is_root(ca):  # a CA below it certifies no signing key
        make_signing_key(ca, holder, out)
    typer.echo(f"{role} {name}: {out}")


@authorities.command("root")
def make_root(
    folder: Annotated[Path, typer.Argument(help="an empty folder, best on a machine that is on no network")],
    consortium: Annotated[str, typer.Option(help="the consortium's name, as in the root before it")],
) -> None:
    """Make a root; what it signs is trusted by whoever trusts it (`ca trust`)."""
    create_ca(folder, consortium)
    typer.echo(f"{folder}: root of {consortium}; keep it offline")


@authorities.command("issuing")
def make_issuing_ca(
    folder: Annotated[Path, typer.Argument(help="an empty folder")],
    root: Annotated[Path, typer.Option(help="the root's folder")],
    days: Annotated[float, typer.Option(help="its life in days")] = ISSUING_CA_LIFETIME.days,
) -> None:
    """Make an issuing CA below a root, for `enrolment.issuing_ca`."""
    made = create_issuing_ca(root, folder, timedelta(days=days))
    typer.echo(f"{folder}: issuing CA until {made.certificate.not_valid_after_utc:%Y-%m-%d}")


@authorities.command("trust")
def trust_root(
    certificate: Annotated[Path, typer.Argument(help="the new root's ca_certificate.pem")],
    folders: TrustingFolders,
) -> None:
    """Let folders trust another root beside those that they trust."""
    for folder in folders:
        for fingerprint in trust(folder, certificate.read_bytes()):
            typer.echo(f"{folder} trusts {fingerprint}")


@authorities.command("distrust")
def distrust_root(
    fingerprint: Annotated[str, typer.Argument(help="SHA-256, as `ca trust` shows it")],
    folders: TrustingFolders,
) -> None:
    """Let folders trust a root no more: what it signed opens no connection there."""
    for folder in folders:
        for left in distrust(folder, fingerprint):
            typer.echo(f"{folder} trusts {left}")


@certificates.command("renew")
def renew_certificate(coordinator: cli_runs.Address, identity: cli_runs.IdentityFolder) -> None:
    """Renew the certificate of an operator: a new key and certificate take the place of those in the folder."""
    expires_at = cli_runs.ask(coordinator, identity, lambda client: client.renew_certificate(identity))
    typer.echo(f"{identity}: a certificate until {expires_at:%Y-%m-%d %H:%M} UTC")


@app.command("check-config")
def check_config(config: ConfigFile) -> None:
    """Say whether a configuration is valid, and everything that is wrong with it."""
    load_toml(config, CoordinatorConfig)
    typer.echo(f"{config} is valid")


@app.command()
def serve(
    config: ConfigFile,
    standby: Annotated[bool, typer.Option("--standby", help="wait while another coordinator holds the store")] = False,
) -> None:
    """Run the coordinator until SIGTERM."""
    tune_malloc()
    from coordinator.wiring import serve as run_coordinator

    loaded = load_toml(config, CoordinatorConfig)
    configure_logging(loaded.log.level)
    run_coordinator(loaded, standby=standby)


@app.command()
def health(config: ConfigFile) -> None:
    """Ask the coordinator of this configuration, over its own port, whether it serves (for container checks)."""
    loaded = load_toml(config, CoordinatorConfig)
    port = loaded.coordinator.listen.rpartition(":")[2]

    async def ask() -> bool:
        async with connect(f"localhost:{port}", loaded.identity.folder) as client:
            return await client.is_serving()

    if not asyncio.run(ask()):
        raise typer.Exit(1)


def main() -> None:
    """Run the command; an expected error is one sentence and exit code 2, one of the system's exit code 1."""
    try:
        app()
    except FedMedError as error:
        print(f"{error.reason}: {error.message}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except OSError as error:
        print(f"{error.filename or 'error'}: {error.strerror or error}", file=sys.stderr)  # noqa: T201
        sys.exit(1)


if __name__ == "__main__":
    main()

"""The site's command, ``fedmed-site``. Each command is a few lines over the wiring, or over the trainer's code.

No command loads torch: what needs the model or the notes is another program, ``python -m site_agent.trainer...``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from site_agent.cli_doctor import doctor
from site_agent.cli_ledger import ledger
from site_agent.cli_policy import approve, decline, policy, review

if TYPE_CHECKING:
    from site_agent.config import SiteConfig

# Everything else is imported inside the commands, so that `--help` answers at once.
app = typer.Typer(
    no_args_is_help=True,
    help="A hospital's agent, or an evaluator.",
    pretty_exceptions_enable=False,
    add_completion=False,
)
model = typer.Typer(no_args_is_help=True, help="The base model on this machine.")
data = typer.Typer(no_args_is_help=True, help="Annotated passages.")
adapter = typer.Typer(no_args_is_help=True, help="Adapters of the consortium.")
app.add_typer(model, name="model")
app.add_typer(data, name="data")
app.add_typer(adapter, name="adapter")
app.add_typer(ledger, name="ledger")
app.add_typer(policy, name="policy")
for command in (review, approve, decline):
    app.command()(command)
app.command()(doctor)

# What becomes a module of the trainer with a parser of its own, help included: its options stand in one place.
_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

ConfigFile = Annotated[Path, typer.Option("--config", help="the agent's configuration (TOML)")]


@app.command()
def run(config: ConfigFile) -> None:
    """Run the agent until SIGTERM."""
    import asyncio

    from common.logging import configure_logging
    from common.malloc import tune_malloc
    from site_agent.wiring import run_agent

    tune_malloc()
    loaded = _load(config)
    configure_logging(loaded.log.level)
    asyncio.run(run_agent(loaded))


@app.command("check-config")
def check_config(config: ConfigFile) -> None:
    """Say whether a configuration is valid, and everything that is wrong with it."""
    _load(config)
    typer.echo(f"{config} is valid")


@app.command()
def health(config: ConfigFile) -> None:
    """Say whether the agent runs and reaches the coordinator (for container checks)."""
    import asyncio

    from site_agent.wiring import find_ailment

    ailment = asyncio.run(find_ailment(_load(config)))
    typer.echo(ailment or "healthy", err=bool(ailment))
    raise typer.Exit(1 if ailment else 0)


@app.command()
def enrol(
    join_file: Annotated[Path, typer.Option("--join-file", help="from the consortium's operator")],
    config: ConfigFile,
    yes: Annotated[bool, typer.Option("--yes", help="the fingerprint was compared already")] = False,
) -> None:
    """Become a member: makes this site's keys, which stay here, and gets a certificate for them."""
    import asyncio

    from common.join_file import read_join_file
    from common.tls import fingerprints_of, harden_tls

    harden_tls()
    from site_agent.wiring import enrol_site

    loaded, join = _load(config), read_join_file(join_file.absolute())
    typer.echo(f"{join.caller.role} {join.caller.name} of the consortium {join.caller.consortium}, at {join.address}")
    for fingerprint in fingerprints_of(join.ca_certificate_pem):
        typer.echo(f"CA certificate, SHA-256: {fingerprint}")
    if not yes and not typer.confirm("Does the operator read out the same on the telephone?"):
        raise typer.Exit(1)
    expires_at = asyncio.run(enrol_site(loaded, join))
    typer.echo(f"{loaded.identity.folder}: a certificate until {expires_at:%Y-%m-%d %H:%M} UTC; the agent renews it")
    typer.echo(f"{join_file} is of no more use: delete it")


@app.command("signing-key")
def signing_key(config: ConfigFile) -> None:
    """Print the public half of the key that signs this site's updates: for whoever keeps the root, to certify."""
    from common.errors import InputInvalidError, Reason
    from common.signing import fingerprint, load_signing_key

    folder = _load(config).identity.folder
    key = load_signing_key(folder)
    if key is None:
        message = f"{folder}: expected a signing key, which `fedmed-site enrol` makes, got none"
        raise InputInvalidError(Reason.CONFIG_INVALID, message)
    typer.echo(key.public_key)
    typer.echo(f"its fingerprint, to read out on the telephone: {fingerprint(key.public_key)}", err=True)


@app.command()
def withdraw(
    config: ConfigFile,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> None:
    """End this site's membership; only a new join file brings it back."""
    import asyncio

    from site_agent.wiring import withdraw_site

    loaded = _load(config)
    if not yes and not typer.confirm("End the membership, and let the consortium delete this site's updates?"):
        raise typer.Exit(1)
    asyncio.run(withdraw_site(loaded))
    typer.echo("withdrawn: stop the agent; what this site's updates gave to adapters before stays in them")


@app.command(context_settings=_PASSED_ON)
def extract(context: typer.Context) -> None:
    """Find the entities and relations of notes, with character offsets (`extract --help` tells how)."""
    _become("predict", *context.args)


@model.command("digest")
def model_digest(path: Annotated[Path, typer.Argument(help="the base model's folder")]) -> None:
    """Print the table `base_model` for the terms of a run."""
    _become("base_model_files", str(path))


@data.command("check", context_settings=_PASSED_ON)
def check_data(context: typer.Context) -> None:
    """Count passages, list malformed records, find what sets share (`data check --help` tells how)."""
    _become("check_notes", *context.args)


@data.command("import", context_settings=_PASSED_ON)
def import_data(context: typer.Context) -> None:
    """Turn annotated notes of another format into passages (`data import --help` tells how)."""
    _become("import_notes", *context.args)


@data.command("split", context_settings=_PASSED_ON)
def split_data(context: typer.Context) -> None:
    """Split passages into sets that share no patient and no text (`data split --help` tells how)."""
    _become("split_notes", *context.args)


@data.command("stats", context_settings=_PASSED_ON)
def describe_data(context: typer.Context) -> None:
    """Tables and plots of labels, lengths and overlap (`data stats --help` tells how)."""
    _become("note_statistics", *context.args)


@data.command("digest")
def digest_data(files: Annotated[list[Path], typer.Argument(help="JSONL files of annotated passages")]) -> None:
    """Print one digest of all their texts, for `gate.test_digest` of a run's terms."""
    _become("digest_notes", *(str(file) for file in files))


@adapter.command("fetch")
def fetch_adapter(
    run: Annotated[str, typer.Argument(help="a run's name or id")],
    out: Annotated[Path, typer.Option(help="folder to fill")],
    config: ConfigFile,
    personal: Annotated[bool, typer.Option(help="the latest, with the factors that this site kept for itself")] = False,
) -> None:
    """Fetch the last promoted adapter of a run, as a PEFT folder; started again, it goes on where it was cut off."""
    import asyncio

    from site_agent.wiring import fetch_personal, fetch_served

    out.mkdir(parents=True, exist_ok=True)
    fetch = fetch_personal if personal else fetch_served
    version = asyncio.run(fetch(_load(config), run, out, lambda message: typer.echo(message, err=True)))
    typer.echo(f"{out}: version {version.version}, {version.adapter.digest}")


def _load(config: Path) -> SiteConfig:
    from common.config import load_toml
    from site_agent.config import SiteConfig

    return load_toml(config.absolute(), SiteConfig)


def _become(module: str, *arguments: str) -> NoReturn:
    """Become a module of the trainer: its terminal, its signals and its exit code are this process's."""
    import os

    from site_agent.adapters.trainer_process import trainer_environment

    command = [sys.executable, "-P", "-m", f"site_agent.trainer.{module}", *arguments]
    os.execve(command[0], command, trainer_environment(os.environ, threads=0))  # noqa: S606 - no shell is wanted


def main() -> None:
    """Run the command; an expected error is one sentence and exit code 1, or 2 for a configuration."""
    from common.errors import FedMedError, Reason

    try:
        app()
    except FedMedError as error:
        typer.echo(f"{error.reason}: {error.message}", err=True)
        sys.exit(2 if error.reason is Reason.CONFIG_INVALID else 1)
    except OSError as error:
        typer.echo(f"{error.filename or 'error'}: {error.strerror}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()

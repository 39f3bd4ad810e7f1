"""``fedmed-coordinator release``, ``verify`` and ``audit ...``: what a third party is given, and how it is checked."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from common.errors import InputInvalidError, Reason
from common.files import replacing
from common.given_under import GivenUnder, PolicyStand
from common.hash_chain import EMPTY_CHAIN, ChainBrokenError, ChainEntry, ChainHead, entries_of, parse_head
from common.signing_certificates import read_root
from coordinator.adapters.rpc.operator_client import connect
from coordinator.adapters.rpc.release_client import fetch_release, read_certificates
from coordinator.app.make_release import ReleaseWish
from coordinator.app.release_manifest import MANIFEST_FILE, decode_manifest
from coordinator.app.revoked_keys import read_list
from coordinator.app.verify_release import Verification, verify_release
from coordinator.cli_runs import Address, IdentityFolder
from coordinator.domain.values import Run
from coordinator.domain.verify import printable

audit = typer.Typer(no_args_is_help=True, help="Read, keep and check the audit log.")

# Exit codes of `verify` and `audit verify`: beside 0 for yes, and 2 for what could not be asked.
IS_FALSE, IS_DOUBTFUL = 1, 3

LogFile = Annotated[Path, typer.Argument(help="a log that `audit export` wrote")]


def release(
    run: Annotated[str, typer.Argument(metavar="RUN[@VERSION]", help="a run; without a version, what it serves")],
    out: Annotated[Path, typer.Option(help="a new or an empty folder")],
    coordinator: Address,
    identity: IdentityFolder,
    without_updates: Annotated[bool, typer.Option("--without-updates", help="leave kept updates out")] = False,
    certificates: Annotated[
        list[Path], typer.Option("--certificates", help="signing certificates, or a folder of them (repeatable)")
    ] = [],  # noqa: B006
) -> None:
    """Write a promoted version into a folder that anybody can verify: adapter, lineage, signatures, kept updates."""
    name, _, version = run.partition("@")
    if version and not (version.isascii() and version.isdigit() and int(version) < 2**31):
        raise typer.BadParameter(f"expected a number behind the @, got {version[:40]!r}", param_hint="RUN")
    wish = ReleaseWish(
        run=name,
        version=int(version or 0),
        with_updates=not without_updates,
        certificates=read_certificates(certificates),
    )

    async def fetch() -> None:
        async with connect(coordinator, identity) as client:
            manifest = await fetch_release(client, wish, out)
        typer.echo(f"{out}: version {manifest.version} of {manifest.run.terms.name}, {len(manifest.files) + 2} files")

    asyncio.run(fetch())


def verify(
    folder: Annotated[Path, typer.Argument(help="the release's folder")],
    ca: Annotated[Path, typer.Option(help="the consortium's root certificate (ca_certificate.pem)")],
    revoked: Annotated[
        Path | None, typer.Option(help="the root's list of revoked signing keys, as `key disown` writes it")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print what was found as JSON")] = False,
) -> None:
    """Check a release offline: exit code 0 for yes, 1 for no, 3 when nothing is false and something is not proven."""
    root = read_root(ca.read_bytes())
    if not folder.is_dir():
        raise InputInvalidError(Reason.CONFIG_INVALID, f"{folder}: expected a release's folder")
    listed = None if revoked is None else read_list(revoked.read_bytes(), root)
    with tempfile.TemporaryDirectory(prefix="fedmed-verify-") as scratch:
        found = verify_release(folder, root, Path(scratch), () if listed is None else listed.keys)
    typer.echo(_json(found) if as_json else _text(folder, found))
    if listed is not None and not as_json:
        typer.echo(f"revoked keys: {len(listed.keys)}, as of {listed.made_at:%Y-%m-%d %H:%M} UTC")
    if found.findings:
        raise typer.Exit(IS_FALSE if found.is_false else IS_DOUBTFUL)


def _verdict(found: Verification) -> str:
    return "no" if found.is_false else "unconfirmed" if found.findings else "yes"


def _text(folder: Path, found: Verification) -> str:
    lines = [f"{folder}: {_verdict(found)}", *map(str, found.findings)]
    if found.manifest is not None and not found.is_false:
        run = found.manifest.run
        updates = sum(len(past.accepted) for past in run.rounds)
        lines.append(f"version {found.manifest.version} of {run.terms.name} ({found.manifest.consortium})")
        lines.append(f"updates signed by keys that the root confirms: {found.signed_updates} of {updates}")
        lines.append(f"policies of their own that the sites gave them under: {_stands(run)}")
        again = ", ".join(map(str, found.recomputed)) or "none, for their updates are not in the release"
        lines.append(f"rounds computed again from their updates: {again}")
        lines += [f"update deleted on withdrawal: {each}" for each in _withdrawn(found)]
    return "\n".join(map(printable, lines))  # names are the coordinator's, whom `verify` does not trust


def _stands(run: Run) -> str:
    """How many updates say what of their site's policy."""
    said = [given_under and str(given_under.stand) for _, _, given_under in _given_under(run)]
    counts = {each or "untold": said.count(each) for each in (*map(str, PolicyStand), None)}
    return ", ".join(f"{count} {stand}" for stand, count in counts.items() if count)


def _given_under(run: Run) -> Iterator[tuple[int, str, GivenUnder | None]]:
    for past in run.rounds:
        for entry in past.accepted:
            yield past.number, entry.site, entry.update.given_under if entry.update is not None else None


def _withdrawn(found: Verification) -> list[str]:
    """Whose updates the release would hold, had their sites not withdrawn."""
    rounds = () if found.manifest is None else found.manifest.run.rounds
    return [f"round {past.number}, {entry.site}" for past in rounds for entry in past.roster if entry.is_withdrawn]


def _json(found: Verification) -> str:
    document = {
        "verdict": _verdict(found),
        "findings": [
            {"problem": each.problem, "file": each.file, "about": each.about, "detail": each.detail}
            for each in found.findings
        ],
        "signed_updates": found.signed_updates,
        "recomputed_rounds": found.recomputed,
        "given_under": [
            {
                "round": number,
                "site": site,
                "stand": given_under and given_under.stand,
                "digest": given_under and given_under.digest,
            }
            for number, site, given_under in (() if found.manifest is None else _given_under(found.manifest.run))
        ],
        "deleted_on_withdrawal": _withdrawn(found),
        "version": None if found.manifest is None else found.manifest.version,
        "run": None if found.manifest is None else found.manifest.run.terms.name,
    }
    return json.dumps(document, indent=2)


@audit.command("list")
def list_entries(coordinator: Address, identity: IdentityFolder) -> None:
    """Show the audit log: when, what, about whom, and whose call it was."""
    table = Table("number", "at", "what", "about", "round", "caller", "more")
    for entry in _checked(_fetch(coordinator, identity)):
        said = entry.document
        more = " ".join(f"{key}={said[key]}" for key in ("site", "state", "reason", "digest", "count") if key in said)
        row = [entry.head.sequence, *(said.get(key, "") for key in ("at", "action", "subject", "round_number"))]
        table.add_row(*map(str, row), str(said.get("caller", "")), more)
    Console().print(table)


@audit.command()
def export(
    out: Annotated[Path, typer.Option(help="the file to write: one entry a line")],
    coordinator: Address,
    identity: IdentityFolder,
) -> None:
    """Copy the audit log into a file, and print its head: keep both where the coordinator cannot reach them."""
    lines = _fetch(coordinator, identity)
    head = _head_of(lines)
    with replacing(out) as file:
        file.writelines(line + b"\n" for line in lines)
    typer.echo(f"{out}: head {head}")


@audit.command("verify")
def verify_log(
    log: LogFile,
    head: Annotated[str, typer.Option(help="a head that was kept: the log must still hold it")] = "",
    release_folder: Annotated[Path | None, typer.Option("--release", help="a release whose head it must hold")] = None,
) -> None:
    """Check that no entry of a log was changed, taken out or put in; exit code 1 when one was."""
    kept = list(_kept_heads(head, release_folder))
    heads = {0: EMPTY_CHAIN}
    try:
        for entry in entries_of(log.read_bytes().splitlines()):
            heads[entry.head.sequence] = entry.head
    except ChainBrokenError as error:
        typer.echo(f"{log}: no: {error}")
        raise typer.Exit(IS_FALSE) from None
    for each in kept:
        if heads.get(each.sequence) != each:
            typer.echo(f"{log}: no: expected entry {each.sequence} to be {each.digest}, got another or none")
            raise typer.Exit(IS_FALSE)
    typer.echo(f"{log}: yes, {len(heads) - 1} entries, head {heads[len(heads) - 1]}")


def _kept_heads(head: str, release_folder: Path | None) -> Iterator[ChainHead]:
    try:
        if head:
            yield parse_head(head)
        if release_folder is not None:
            yield parse_head(decode_manifest((release_folder / MANIFEST_FILE).read_bytes()).audit_head)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _fetch(address: str, identity: Path) -> list[bytes]:
    async def fetch() -> list[bytes]:
        async with connect(address, identity) as client:
            return [line async for line in client.audit_lines()]

    return asyncio.run(fetch())


def _checked(lines: Iterable[bytes]) -> Iterable[ChainEntry]:
    try:
        yield from entries_of(lines)
    except ChainBrokenError as error:
        print(f"the audit log is broken: {error}", file=sys.stderr)  # noqa: T201
        raise typer.Exit(IS_FALSE) from None


def _head_of(lines: Iterable[bytes]) -> ChainHead:
    head = EMPTY_CHAIN
    for entry in _checked(lines):
        head = entry.head
    return head

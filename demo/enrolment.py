"""Lets the demo's agents in as a consortium does: join files that are good once, keys made at the site, a root offline.

It plays three people, each with what that person has: the operator, who invites; each site's IT, which enrols, and
reads out the key that updates are signed with; and whoever keeps the root, who certifies that key.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from common.errors import Reason
from common.files import write_whole
from common.signing import UPDATE_FILES, fingerprint, load_signing_key
from common.tls import CERTIFICATE_FILE, Caller, Role, caller_from_certificate
from coordinator.adapters.pki.key_certification import certify_key
from coordinator.adapters.rpc.operator_client import connect
from coordinator.cli_sites import write_invitation
from demo.prepare import EVALUATOR, IDENTITY, Prepared
from demo.processes import ProcessGroup

TOKEN_SECONDS = 3600.0
# Of one address the coordinator hears ten attempts to enrol at once, and after that one in so many seconds.
PACE_SECONDS = 6.0


def enrol_agents(prepared: Prepared, address: str, group: ProcessGroup, console: Console) -> None:
    """Make members of the agents that have no identity yet, at the coordinator that serves at ``address``.

    Raises:
        FedMedError: the coordinator said no to the operator.
        RuntimeError: an agent could not enrol, or the coordinator has another key of it than the site reads out.
    """
    homes = {name: config.parent for name, config in prepared.agent_configs.items()}
    homes = {name: home for name, home in homes.items() if not (home / IDENTITY / CERTIFICATE_FILE).exists()}
    if not homes:
        return
    console.print(
        "enrolling: the operator makes each agent a join file, which is good once; with it the agent gets a "
        "certificate for keys that it makes itself and keeps to itself",
        soft_wrap=True,
    )
    asyncio.run(_invite(address, prepared.operator_identity, homes))
    _enrol(prepared.agent_configs, homes, group)
    known = asyncio.run(_known_keys(address, prepared.operator_identity))
    for name, home in homes.items():
        _join_file(home).unlink()  # it is spent
        caller = caller_from_certificate((home / IDENTITY / CERTIFICATE_FILE).read_bytes())
        if caller.role is Role.SITE:
            _certify(prepared.root, caller, home / IDENTITY, known.get(name, ""))
        console.print(f"  {name}: a member, with the role {caller.role}", highlight=False)
    console.print(
        "the consortium's root, which the coordinator does not have, certified the keys that sites sign updates with",
        soft_wrap=True,
    )


async def _invite(address: str, operator: Path, homes: Mapping[str, Path]) -> None:
    """The operator's part: what ``fedmed-coordinator site invite`` does, and the way to the site."""
    host = address.rpartition(":")[0]
    async with connect(address, operator) as client:
        for name, home in homes.items():
            role = Role.EVALUATOR if name == EVALUATOR else Role.SITE
            await write_invitation(client, host, (name, role), TOKEN_SECONDS, _join_file(home))


def _enrol(configs: Mapping[str, Path], homes: Mapping[str, Path], group: ProcessGroup) -> None:
    """The sites' part: ``fedmed-site enrol``, all at once; who is told that it was too many tries again."""
    waiting = dict(homes)
    while waiting:
        commands = {f"enrol-{name}": name for name in waiting}
        for command, name in commands.items():
            files = ("--join-file", str(_join_file(homes[name])), "--config", str(configs[name]))
            group.log_of(command).unlink(missing_ok=True)  # of an attempt that was one too many
            group.start(command, "site_agent", "enrol", "--yes", *files)
        failed = {command for command, code in group.finish(list(commands)).items() if code != 0}
        for command in failed:
            if Reason.TOO_MANY_ATTEMPTS not in group.log_of(command).read_text(encoding="utf-8"):
                raise RuntimeError(f"{commands[command]} could not enrol: {group.log_of(command)}")
        waiting = {commands[command]: homes[commands[command]] for command in sorted(failed)}
        if waiting:
            time.sleep(PACE_SECONDS)


async def _known_keys(address: str, operator: Path) -> dict[str, str]:
    """Fingerprints of the signing keys that the coordinator has of its sites, by their names."""
    async with connect(address, operator) as client:
        return {site.name: site.signing_key_fingerprint for site in await client.list_sites()}


def _certify(root: Path, caller: Caller, identity: Path, known: str) -> None:
    """The site reads out its own key, over no wire; if it is the one that the coordinator knows, the root certifies it.

    Raises:
        RuntimeError: it is another.
    """
    key = load_signing_key(identity)
    own = key and fingerprint(key.public_key)
    if key is None or own != known:
        raise RuntimeError(f"{caller.name}: expected the coordinator to have its signing key, {own}, got {known}")
    certificate = certify_key(root, caller, key.public_key)
    write_whole(identity / UPDATE_FILES.certificate, certificate.encode("ascii"))


def _join_file(home: Path) -> Path:
    return home / f"{home.name}.join"

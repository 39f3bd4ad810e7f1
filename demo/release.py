"""Releases the demo's adapter, and checks the release as a third party would: both by the command line."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from coordinator.adapters.pki.ca import CA_CERTIFICATE_FILE
from demo.prepare import Prepared
from demo.processes import ProcessGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """A folder that ``verify`` said yes to.

    Attributes:
        check: Arguments of the command that said it; it needs nothing but the files that they name.
        said: What it said, by lines.
    """

    folder: Path
    check: tuple[str, ...]
    said: tuple[str, ...]

    @property
    def command(self) -> str:
        """What a person types to check it again."""
        return shlex.join(["fedmed-coordinator", *self.check])


def release_best(prepared: Prepared, address: str, folder: Path, group: ProcessGroup) -> Release:
    """Have the coordinator at ``address`` release the best adapter, which is the one that it serves, and verify it.

    Raises:
        RuntimeError: there is no release, or ``verify`` does not say yes to it; says why.
    """
    operator = ("--coordinator", address, "--identity", str(prepared.operator_identity))
    _run(group, "release", prepared.terms.name, "--out", str(folder), *operator)
    check = ("verify", str(folder), "--ca", str(prepared.root / CA_CERTIFICATE_FILE))
    return Release(folder=folder, check=check, said=tuple(_run(group, *check).splitlines()))


def _run(group: ProcessGroup, command: str, *arguments: str) -> str:
    """What a command of the coordinator's prints."""
    group.start(command, "coordinator", command, *arguments)
    code = group.finish([command])[command]
    said = group.log_of(command).read_text(encoding="utf-8")
    if code != 0:
        raise RuntimeError(f"fedmed-coordinator {command} ended with exit code {code}: {said.strip()}")
    return said

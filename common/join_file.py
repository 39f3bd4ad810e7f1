"""What an operator hands to a site that is to enrol: where to call, as whom, by what, whom to trust."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from common.config import ListenAddress, load_toml
from common.errors import InputInvalidError, Reason
from common.files import read_private, write_whole
from common.ids import Role, SiteName, check_name
from common.tls import Caller

_HEAD = """\
# For {name} alone: whoever has this file first becomes {name} in the consortium {consortium}. Good until {expires_at}.
# Bring it there by a safe way, keep it private (chmod 600), and run, with the agent's configuration:
# fedmed-site enrol --join-file <this file> --config site.toml
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinFile:
    """The content; ``address`` is host:port of the enrolment port."""

    address: str
    caller: Caller
    token: str = field(repr=False)
    ca_certificate_pem: bytes


class _Fields(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    address: ListenAddress
    consortium: str
    role: Role
    name: str
    token: str = Field(min_length=1, max_length=256)
    ca_certificate: str


def write_join_file(path: Path, join: JoinFile, expires_at: str) -> None:
    """Write ``join`` for its owner's eyes alone."""
    caller = join.caller
    keys = {
        "address": join.address,
        "consortium": caller.consortium,
        "role": str(caller.role),
        "name": caller.name,
        "token": join.token,
        "ca_certificate": join.ca_certificate_pem.decode(),
    }
    head = _HEAD.format(name=caller.name, consortium=caller.consortium, expires_at=expires_at)
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    write_whole(path, (head + "\n".join(lines) + "\n").encode(), 0o600)


def read_join_file(path: Path) -> JoinFile:
    """The join file at ``path``.

    Raises:
        InputInvalidError: CONFIG_INVALID or NAME_INVALID; others may read it, or it is none.
        OSError: it cannot be read.
    """
    read_private(path)
    fields = load_toml(path, _Fields)
    if fields.role not in (Role.SITE, Role.EVALUATOR):
        message = f"{path}: expected the role of a site or an evaluator, got {fields.role}"
        raise InputInvalidError(Reason.CONFIG_INVALID, message)
    return JoinFile(
        address=fields.address,
        caller=Caller(
            name=SiteName(check_name(fields.name, "name")),
            role=fields.role,
            consortium=check_name(fields.consortium, "consortium"),
        ),
        token=fields.token,
        ca_certificate_pem=fields.ca_certificate.encode(),
    )

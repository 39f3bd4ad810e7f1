"""Policies as hospitals write them, for tests: a file that lets one run in and nothing beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from common.terms import Terms
from demo.policy import Egress, policy_tables
from demo.prepare import write_toml
from site_agent.domain.policy import SitePolicy
from site_agent.policy_file import load_policy

CONSORTIUM, COORDINATOR = "demo", "localhost"
KINDS = frozenset({"initialise", "train", "score", "evaluate"})


def write_policy(
    path: Path, terms: Terms, *, standing: bool = True, egress: Egress | None = None, **times: Any
) -> Path:
    """The policy of a site that takes part in the run of ``terms`` and in no other."""
    head, tables = policy_tables(terms, CONSORTIUM, COORDINATOR, egress or Egress())
    tables["approval"] = {"standing": standing}
    if times:
        tables["times"] = times
    return write_toml(path, tables, head)


def policy_for(folder: Path, terms: Terms, *, egress: Egress | None = None, **times: Any) -> SitePolicy:
    """That policy, read back from its file."""
    return load_policy(write_policy(folder / "policy.toml", terms, egress=egress, **times), KINDS, None).policy


def awaiting_approval(policy: SitePolicy) -> SitePolicy:
    """The same policy, of a site whose people look at each run."""
    return replace(policy, has_standing_approval=False)

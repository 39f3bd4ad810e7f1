"""Writes the policy of a site that takes part in one known run, and says so once for all of its rounds.

A hospital writes its own (`docker/config/policy.example.toml` explains every key); here the run is known before.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from common.terms import Terms
from site_agent.domain.policy import METRICS
from site_agent.domain.term_rules import RULES, By, fields_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Egress:
    """What may leave a site of a demo or a benchmark; the names are those of the file's table."""

    min_examples: int = 1
    max_norm: float = 1e6
    max_bytes: str = "8GiB"
    metrics: tuple[str, ...] = tuple(sorted(METRICS))
    smallest_cell: int = 0
    progress_losses: bool = True


def policy_tables(
    terms: Terms, consortium: str, coordinator: str, egress: Egress
) -> tuple[str, dict[str, dict[str, Any]]]:
    """Head and tables of a policy with a standing approval for runs of these terms and no others like them."""
    base_model = asdict(terms.base_model)
    tables: dict[str, dict[str, Any]] = {
        "federation": {"consortium": consortium, "coordinators": [coordinator]},
        "[base_models]": base_model,
        "approval": {"standing": True},
        "egress": asdict(egress) | {"dtypes": [terms.aggregation.wire_dtype]},
    }
    for path, value, default in fields_of(terms):
        if RULES[path].by is By.BOUND and value != default:
            section, _, key = path.rpartition(".")
            tables.setdefault(f"terms.{section}", {})[key] = _only(value)
    head = f"strategies = {json.dumps([terms.aggregation.strategy])}\nmax_lora_rank = {terms.lora.lora_rank}"
    return head, tables


def _only(value: Any) -> list[Any]:
    """A bound that lets this value in and no other."""
    if isinstance(value, bool | str):
        return [value]
    return list(value) if isinstance(value, tuple) else [value, value]

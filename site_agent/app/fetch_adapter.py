"""Brings the served adapter of a run to a folder that peft loads. It trains nothing and needs no assignment."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from common.adapter import AdapterSpec
from common.errors import FedMedError, NotFoundError, Reason
from common.files import write_whole
from common.ids import Digest
from common.peft_folder import CONFIG_FILE, LINEAGE_FILE, WEIGHTS_FILE, peft_config
from common.terms import Terms
from site_agent.app.download import Source, download_once
from site_agent.app.personal_adapter import put_own
from site_agent.app.retrying import Patience, keep_trying
from site_agent.domain.assignment import AdapterRef

# A person waits: half a minute at most beside the calls themselves. Started again, it goes on from what arrived.
MAX_ATTEMPTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterVersion:
    """One version in the registry; 0 is the first adapter, n comes out of round n."""

    version: int
    adapter: AdapterRef
    parent_digest: Digest | None
    is_promoted: bool
    contributors: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAdapters:
    """A run's versions, oldest first, and what they have in common; no specification before the first adapter."""

    versions: tuple[AdapterVersion, ...]
    terms: Terms
    spec: AdapterSpec | None


class Registry(Source, Protocol):
    """The registry, as a member of the federation may call it."""

    async def adapters_of(self, run: str) -> RunAdapters:
        """The versions of the run of that id or name."""


async def fetch_served_adapter(
    registry: Registry,
    run: str,
    out: Path,
    patience: Patience,
    on_failure: Callable[[FedMedError, int, float], None],
    own: Path | None = None,
) -> AdapterVersion:
    """Fill the folder ``out`` with the last promoted adapter of ``run``, checked by digest; returns what it was.

    With ``own``, a file of factors that this site kept, it is the latest adapter, promoted or not, with those in it.

    Raises:
        FedMedError: The coordinator said no, or did not answer MAX_ATTEMPTS times; or ``own`` does not fit.
    """

    def count(error: FedMedError, attempt: int, wait_seconds: float) -> None:
        if attempt >= MAX_ATTEMPTS:
            raise error
        on_failure(error, attempt, wait_seconds)

    known = await keep_trying(partial(registry.adapters_of, run), patience, count)
    served = next((version for version in reversed(known.versions) if version.is_promoted or own is not None), None)
    if served is None or known.spec is None:
        raise NotFoundError(Reason.ADAPTER_UNKNOWN, f"run {known.terms.name} has promoted no adapter yet")
    await keep_trying(partial(download_once, registry, served.adapter, out / WEIGHTS_FILE), patience, count)
    lineage = _lineage(served, known.terms)
    if own is not None:
        personal = await asyncio.to_thread(put_own, out / WEIGHTS_FILE, own, known.spec)
        lineage |= {"digest": personal, "shared_digest": served.adapter.digest}
    write_whole(out / LINEAGE_FILE, _json(lineage))
    write_whole(out / CONFIG_FILE, _json(peft_config(known.spec, known.terms)))  # last: without it, peft loads nothing
    return served


def _lineage(version: AdapterVersion, terms: Terms) -> dict[str, object]:
    """Where the adapter comes from, as far as a member of the federation may know it."""
    return {
        "terms": json.loads(terms.canonical),
        "terms_digest": terms.digest,
        "round": version.version,
        "digest": version.adapter.digest,
        "parent_digest": version.parent_digest,
        "contributors": version.contributors,
    }


def _json(document: object) -> bytes:
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"

"""Publishes again what the registry has lost: the versions of a coordinator whose disk is another one now."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from common.errors import FedMedError
from common.logging import log_fault
from common.retry import backoff
from coordinator.app.ports import BlobStore
from coordinator.app.publish_adapter import is_published, publish
from coordinator.domain.commands import Command, CommandKind
from coordinator.domain.values import Phase, Round, Run

RETRY_BASE_SECONDS = 1.0
RETRY_CAP_SECONDS = 60.0


def lost_versions(registry: Path, runs: Sequence[Run], pending: Sequence[Command]) -> list[tuple[Run, Round]]:
    """Rounds whose version is not in ``registry`` as ``publish`` leaves it, but for those that ``pending`` publishes.

    A coordinator that died while it published one again has left ``served`` behind.
    """
    coming = {(each.run_id, each.round_number) for each in pending if each.kind is CommandKind.PUBLISH}
    return [
        (run, closed)
        for run, closed in _published(runs)
        if (run.run_id, closed.number) not in coming and not is_published(registry, run, closed)
    ]


def _published(runs: Sequence[Run]) -> Iterator[tuple[Run, Round]]:
    for run in runs:
        for closed in run.rounds:
            if closed.phase in (Phase.COMMITTED, Phase.REJECTED):
                yield run, closed


async def restore(
    lost: Sequence[tuple[Run, Round]], blobs: BlobStore, registry: Path, log: FilteringBoundLogger
) -> None:
    """Publish them. One whose adapter is gone is told of and left out; what may pass is tried again."""
    for run, closed in lost:
        for attempt in count():
            try:
                await _restore(run, closed, blobs, registry)
                log.info("version_restored", run_name=run.terms.name, round_number=closed.number)
                break
            except Exception as error:  # one version's trouble is not the coordinator's
                log_fault(log, "version_not_restored", error, run_name=run.terms.name, round_number=closed.number)
                if isinstance(error, FileNotFoundError) or not isinstance(error, OSError | FedMedError):
                    break
            await asyncio.sleep(backoff(attempt, RETRY_BASE_SECONDS, RETRY_CAP_SECONDS, jitter=1.0))


async def _restore(run: Run, closed: Round, blobs: BlobStore, registry: Path) -> None:
    assert closed.candidate is not None, "what was published has a candidate"
    async with blobs.adapter(closed.candidate.digest) as weights:
        await asyncio.to_thread(publish, registry, run, closed, weights)

"""Sends an update, resumably. What may leave was decided before; how it is framed is the adapter's business."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from common.ids import AssignmentId, Digest
from site_agent.app.answers import UploadHeader, UploadOffset


class Sink(Protocol):
    """The two rpcs that an upload needs."""

    async def upload_offset(self, assignment_id: AssignmentId, digest: Digest) -> UploadOffset:
        """How far the upload is."""

    async def upload(self, header: UploadHeader, path: Path, offset: int) -> None:
        """Send the rest."""


async def upload_once(
    sink: Sink, header: UploadHeader, path: Path, *, on_bytes: Callable[[int], None] = lambda _: None
) -> None:
    """Bring the coordinator to have accepted the file: ask how far it is, send what is missing.

    Called again after any failure it goes on from what arrived; after a lost acknowledgement it sends nothing.

    Raises:
        UpdateRefusedError: The coordinator read the update and does not want it.
        TransferBrokenError: Bytes were lost; call again.
    """
    known = await sink.upload_offset(header.assignment_id, header.digest)
    if known.is_accepted:
        return
    await sink.upload(header, path, known.offset)
    on_bytes(header.size_bytes - known.offset)

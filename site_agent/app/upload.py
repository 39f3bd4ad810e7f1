"""Sends an update, resumably. What may leave was decided before; how it is framed is the adapter's business."""

from __future__ import annotations

from pathlib import Path

from site_agent.app.answers import UploadHeader
from site_agent.app.ports import Coordinator


async def upload_once(coordinator: Coordinator, header: UploadHeader, path: Path) -> None:
    """Bring the coordinator to have accepted the file: ask how far it is, send what is missing.

    Called again after any failure it goes on from what arrived; after a lost acknowledgement it sends nothing.

    Raises:
        UpdateRefusedError: The coordinator read the update and does not want it.
        TransferBrokenError: Bytes were lost; call again.
    """
    known = await coordinator.upload_offset(header.assignment_id, header.digest)
    if not known.is_accepted:
        await coordinator.upload(header, path, known.offset)

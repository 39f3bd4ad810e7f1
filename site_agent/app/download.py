"""Fetches an adapter file, resumably, until it is here whole. It knows no gRPC, and does not look inside the file."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from common.errors import Reason, TransferBrokenError
from common.ids import Digest
from site_agent.domain.assignment import AdapterRef


class Source(Protocol):
    """The one rpc that a download needs."""

    def download(self, digest: Digest, offset: int) -> AsyncIterator[bytes]:
        """The file's bytes from ``offset``."""


async def download_once(
    source: Source, adapter: AdapterRef, path: Path, *, on_bytes: Callable[[int], None] = lambda _: None
) -> None:
    """Bring ``path`` to hold ``adapter``; what an earlier attempt left beside it as ``.part`` is used.

    Raises:
        TransferBrokenError: Bytes were lost, or are others than announced; calling again goes on from what arrived.
    """
    part = path.with_name(path.name + ".part")
    with part.open("ab") as file:
        if file.tell() > adapter.size_bytes:
            file.truncate(0)
        await _append(source, adapter, file, on_bytes)
        file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())
    digest = await asyncio.to_thread(file_digest, part)
    if digest != adapter.digest:
        part.unlink()
        raise TransferBrokenError(Reason.DIGEST_DIFFERS, f"adapter: expected {adapter.digest}, got {digest}")
    part.replace(path)


async def _append(source: Source, adapter: AdapterRef, file: BinaryIO, on_bytes: Callable[[int], None]) -> None:
    size = file.seek(0, 2)
    if size == adapter.size_bytes:
        return
    async for content in source.download(adapter.digest, size):
        size += len(content)
        if size > adapter.size_bytes:
            raise TransferBrokenError(
                Reason.DIGEST_DIFFERS, f"adapter: expected {adapter.size_bytes} bytes, got more"
            )
        file.write(content)
        on_bytes(len(content))
    if size != adapter.size_bytes:
        raise TransferBrokenError(
            Reason.STREAM_ENDED_EARLY, f"adapter: expected {adapter.size_bytes} bytes, got {size}"
        )


def file_digest(path: Path) -> Digest:
    """SHA-256 of a file's content, read piece by piece."""
    with path.open("rb") as file:
        return Digest("sha256:" + hashlib.file_digest(file, "sha256").hexdigest())

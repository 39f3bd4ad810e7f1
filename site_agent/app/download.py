"""Fetches an adapter file, resumably, until it is here whole. It knows no gRPC, and does not look inside the file."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import BinaryIO, Protocol

from common.errors import OverloadedError, Reason, TransferBrokenError
from common.files import is_disk_full, sync_folder
from common.ids import Digest
from site_agent.domain.assignment import AdapterRef

_READ_BYTES = 2**20


class Hash(Protocol):
    """A hash that runs along."""

    def update(self, content: bytes | memoryview, /) -> None:
        """Take in the next bytes."""


class Source(Protocol):
    """The one call that a download needs."""

    def download(self, digest: Digest, offset: int) -> AsyncGenerator[bytes | memoryview, None]:
        """The file's bytes from ``offset``."""


async def download_once(source: Source, adapter: AdapterRef, path: Path) -> None:
    """Bring ``path`` to hold ``adapter``; what an earlier attempt left beside it as ``.part`` is used.

    Raises:
        TransferBrokenError: Bytes were lost, or are others than announced; calling again goes on from what arrived.
        OverloadedError: DISK_FULL; calling again goes on from what found room.
    """
    part = path.with_name(path.name + ".part")
    running = hashlib.sha256()
    try:
        await asyncio.to_thread(_hash_kept, part, running)
        with part.open("ab") as file:
            await _append_rest(source, adapter, file, running)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
    except OSError as error:
        if not is_disk_full(error):
            raise
        message = f"this site's disk: expected {adapter.size_bytes} bytes of room for an adapter, got less"
        raise OverloadedError(Reason.DISK_FULL, message) from None
    digest = Digest("sha256:" + running.hexdigest())
    if digest != adapter.digest:
        part.unlink()
        raise TransferBrokenError(Reason.DIGEST_DIFFERS, f"adapter: expected {adapter.digest}, got {digest}")
    part.replace(path)
    sync_folder(path.parent)


def _hash_kept(part: Path, running: Hash) -> None:
    """Hash what an earlier attempt left, if there was one."""
    with contextlib.suppress(FileNotFoundError), part.open("rb") as file:
        left = file.seek(0, os.SEEK_END)
        file.seek(0)
        while left and (piece := file.read(min(left, _READ_BYTES))):
            running.update(piece)
            left -= len(piece)


async def _append_rest(source: Source, adapter: AdapterRef, file: BinaryIO, running: Hash) -> None:
    size = file.tell()
    if size >= adapter.size_bytes:  # whole, or of another file: the digest tells
        return
    async with contextlib.aclosing(source.download(adapter.digest, size)) as stream:
        async for content in stream:
            size += len(content)
            if size > adapter.size_bytes:
                raise _broken(Reason.DIGEST_DIFFERS, adapter, "more")
            file.write(content)
            running.update(content)
    if size < adapter.size_bytes:
        raise _broken(Reason.STREAM_ENDED_EARLY, adapter, str(size))


def _broken(reason: Reason, adapter: AdapterRef, got: str) -> TransferBrokenError:
    return TransferBrokenError(reason, f"adapter: expected {adapter.size_bytes} bytes, got {got}")

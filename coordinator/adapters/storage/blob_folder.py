"""Safetensors files in folders: uploads that arrive, updates of open rounds, adapters. Reads no content.

Names are made of assignment ids and digests (hex), never of anything a peer may choose::

    updates/<assignment id>.<digest hex>.part    an upload that arrives
    updates/<assignment id>.safetensors          an accepted update, or what else only open rounds need
    adapters/<digest hex>.safetensors            an adapter of some run, for ever
    adapters/<name>.draft                        a candidate that is being written
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import threading
from collections.abc import AsyncIterator, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from pathlib import Path

from common.files import make_folder, sync_folder
from common.ids import AssignmentId, Digest, check_digest
from coordinator.adapters.storage.disk_room import DiskRoom, telling_full_disk

_READ_BYTES = 1 << 20


class BlobFolder:
    """Implements `coordinator.app.ports.BlobStore` on a local file system."""

    def __init__(self, root: Path, room: DiskRoom | None = None) -> None:
        self._updates = root / "updates"
        self._adapters = root / "adapters"
        self._room = room or DiskRoom()
        self._arriving: set[PartialFile] = set()
        for folder in (self._updates, self._adapters):
            make_folder(folder, 0o700)

    async def kept_bytes(self, assignment_id: AssignmentId, digest: Digest) -> int:
        """How much of that upload has arrived."""
        try:
            return self.partial_path(assignment_id, digest).stat().st_size
        except FileNotFoundError:
            return 0

    async def open_partial(self, assignment_id: AssignmentId, digest: Digest, size_bytes: int) -> PartialFile:
        """Begin an upload of ``size_bytes``, or go on with it; what arrived before is hashed again.

        Raises:
            OverloadedError: DISK_FULL, when there is no room for all of it; nothing was opened.
        """
        wanted = self.partial_path(assignment_id, digest)
        await asyncio.to_thread(self._delete_other_partials, assignment_id, wanted)
        self.check_room(max(0, size_bytes - await self.kept_bytes(assignment_id, digest)))
        partial = PartialFile(wanted, size_bytes, self._arriving)
        try:
            await partial.hash_kept()
        except BaseException:  # the caller hung up, or the disk failed: nobody else knows of the handle
            await partial.close()
            raise
        return partial

    def check_room(self, size_bytes: int) -> None:
        """Whether ``size_bytes`` can come beside the uploads that are under way.

        Raises:
            OverloadedError: DISK_FULL.
        """
        coming = size_bytes + sum(each.missing_bytes for each in tuple(self._arriving))
        self._room.check((self._updates, self._adapters), coming)

    def partial_path(self, assignment_id: AssignmentId, digest: Digest) -> Path:
        """Where an upload arrives."""
        return self._updates / f"{assignment_id}.{hex_of(digest)}.part"

    async def keep_update(self, assignment_id: AssignmentId, digest: Digest) -> None:
        """A sealed upload becomes an update."""
        await asyncio.to_thread(_move, self.partial_path(assignment_id, digest), self.update_path(assignment_id))

    async def keep_adapter(self, assignment_id: AssignmentId, digest: Digest) -> None:
        """A sealed upload becomes an adapter."""
        await asyncio.to_thread(_move, self.partial_path(assignment_id, digest), self.adapter_path(digest))

    def draft_path(self, name: str) -> Path:
        """Where a candidate is written."""
        return self._adapters / f"{name}.draft"

    async def keep_candidate(self, draft: Path, digest: Digest) -> None:
        """A candidate that is written becomes an adapter."""
        await asyncio.to_thread(_move, draft, self.adapter_path(digest))

    async def keep_beside_updates(self, draft: Path, kept_under: AssignmentId, _digest: Digest) -> None:
        """A strategy's state, or part of an adapter, that is written lies with the updates."""
        await asyncio.to_thread(_move, draft, self.update_path(kept_under))

    @asynccontextmanager
    async def update(self, assignment_id: AssignmentId, _digest: Digest) -> AsyncIterator[Path]:
        """An accepted update, to read."""
        yield _found(self.update_path(assignment_id))

    @asynccontextmanager
    async def adapter(self, digest: Digest) -> AsyncIterator[Path]:
        """An adapter, to read."""
        yield _found(self.adapter_path(digest))

    def update_path(self, assignment_id: AssignmentId) -> Path:
        """Where an accepted update lies."""
        return self._updates / f"{assignment_id}.safetensors"

    def adapter_path(self, digest: Digest) -> Path:
        """Where an adapter lies."""
        return self._adapters / f"{hex_of(digest)}.safetensors"

    def adapters(self) -> set[Digest]:
        """Every adapter that lies there."""
        return {Digest(f"sha256:{path.stem}") for path in self._adapters.glob("*.safetensors")}

    async def forget_upload(self, assignment_id: AssignmentId) -> None:
        """Remove what arrives of that assignment."""
        await asyncio.to_thread(self._delete_other_partials, assignment_id, None)

    async def delete_updates(self, assignment_ids: Sequence[AssignmentId]) -> None:
        """Remove updates and partial uploads of these assignments."""
        await asyncio.to_thread(self._delete, frozenset(assignment_ids))

    async def sweep(
        self, live: Set[AssignmentId], accepted: Mapping[AssignmentId, Digest], adapters: Set[Digest]
    ) -> int:
        """Remove drafts, adapters of no run, and files of no open assignment; what was never accepted is sent again."""
        names = {self.adapter_path(each).name for each in adapters}
        return await asyncio.to_thread(self._sweep, live, accepted.keys(), names)

    def _delete_other_partials(self, assignment_id: AssignmentId, wanted: Path | None) -> None:
        """Keep one file an assignment, so that a site cannot fill the disk with beginnings."""
        for other in set(self._updates.glob(f"{assignment_id}.*.part")) - {wanted}:
            other.unlink(missing_ok=True)

    def _delete(self, assignment_ids: frozenset[AssignmentId]) -> None:
        for path in self._updates.iterdir():
            if path.name.split(".")[0] in assignment_ids:
                path.unlink(missing_ok=True)

    def _sweep(self, live: Set[AssignmentId], accepted: Set[AssignmentId], adapter_names: Set[str]) -> int:
        orphans = [path for path in self._adapters.iterdir() if path.name not in adapter_names]
        for path in self._updates.iterdir():
            wanted = live if path.suffix == ".part" else accepted
            if path.name.split(".")[0] not in wanted:
                orphans.append(path)
        for path in orphans:
            path.unlink(missing_ok=True)
        return len(orphans)


class PartialFile:
    """Implements `coordinator.app.ports.PartialUpload`: an append-only file with a running SHA-256."""

    def __init__(self, path: Path, size_bytes: int, arriving: set[PartialFile]) -> None:
        """Open it; it is in ``arriving`` until it is closed."""
        with telling_full_disk():
            self._handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._writing = threading.Lock()
        self._hash = hashlib.sha256()
        self._size_bytes = size_bytes
        self._kept_bytes = os.fstat(self._handle).st_size
        self._offset = 0
        self._arriving = arriving
        arriving.add(self)

    async def hash_kept(self) -> None:
        """Hash what arrived before; the offset is then its end."""
        while await asyncio.to_thread(self._hash_next):
            pass

    @property
    def offset(self) -> int:
        """Bytes kept so far."""
        return self._offset

    @property
    def missing_bytes(self) -> int:
        """What is still to come."""
        return max(0, self._size_bytes - max(self._offset, self._kept_bytes))

    async def append(self, content: bytes | memoryview) -> None:
        """Write ``content`` at the offset.

        Raises:
            OverloadedError: DISK_FULL; what was kept stays.
        """
        await asyncio.to_thread(self._append, content)

    async def seal(self) -> Digest:
        """Make what arrived durable and give its digest."""
        with telling_full_disk():
            await asyncio.to_thread(os.fsync, self._handle)
        return Digest(f"sha256:{self._hash.hexdigest()}")

    async def close(self) -> None:
        """Give back the file handle."""
        self._arriving.discard(self)
        # What a cancelled call began goes on in its thread; it must not reach whatever file gets this number next.
        with self._writing:
            handle, self._handle = self._handle, -1
        os.close(handle)

    def _hash_next(self) -> int:
        with self._writing:
            content = os.pread(self._handle, _READ_BYTES, self._offset)
            self._hash.update(content)
            self._offset += len(content)
        return len(content)

    def _append(self, content: bytes | memoryview) -> None:
        with self._writing:
            with telling_full_disk():
                try:
                    self._write(content)
                except OSError:
                    os.ftruncate(self._handle, self._offset)
                    raise
            self._hash.update(content)
            self._offset += len(content)

    def _write(self, content: bytes | memoryview) -> None:
        written = 0
        while written < len(content):
            written += os.pwrite(self._handle, content[written:], self._offset + written)


def hex_of(digest: Digest) -> str:
    """The digest as it stands in names."""
    return check_digest(digest, "digest").removeprefix("sha256:")


def _move(source: Path, target: Path) -> None:
    """Rename, and make the rename durable."""
    source.replace(target)
    sync_folder(target.parent)


def _found(path: Path) -> Path:
    """The path of a file that is there.

    Raises:
        FileNotFoundError: it is not.
    """
    path.stat()
    return path

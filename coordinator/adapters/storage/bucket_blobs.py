"""Safetensors files in an S3 bucket. Uploads arrive, and files are read, in a local folder; the bucket has what counts.

What is kept is in the bucket first. The folder may be lost at any time: what is not in it is fetched, and verified by
its digest. Names below the bucket's prefix, made as those of `coordinator.adapters.storage.blob_folder`::

    updates/<assignment id>.<digest hex>.safetensors    an accepted update, or what else only open rounds need
    adapters/<digest hex>.safetensors                   an adapter of some run, for ever

Whoever puts the same name puts the same content, so two coordinators, of which one was stopped and does not know it,
cannot spoil each other's files.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from common.errors import Reason, UpdateRefusedError
from common.ids import AssignmentId, Digest
from common.weights_io import file_digest
from coordinator.adapters.storage.blob_folder import BlobFolder, PartialFile, hex_of
from coordinator.adapters.storage.bucket import CONNECTIONS, MAX_FILE_BYTES, Bucket
from coordinator.adapters.storage.leavable_threads import LeavableThreads

T = TypeVar("T")

# For what is under way at the end of the process: enough for a bucket that answers.
END_SECONDS = 2.0

_OWN_NAME = re.compile(r"(updates/[0-9a-f]{32}\.|adapters/)[0-9a-f]{64}\.safetensors")


class BucketBlobs:
    """Implements `coordinator.app.ports.BlobStore` over a bucket.

    Args:
        spool: The local folder.
        bucket: Checked, and claimed.
        needed: Adapters that open runs need; others do not stay in the folder.
    """

    def __init__(self, spool: BlobFolder, bucket: Bucket, needed: Callable[[], Set[Digest]]) -> None:
        self._spool = spool
        self._bucket = bucket
        self._needed = needed
        # Of its own: a bucket that is slow must not hold up the threads that write what arrives.
        self._threads = LeavableThreads(CONNECTIONS, "bucket")
        self._under_way: dict[tuple[str, str], asyncio.Future[None]] = {}
        self._verified: dict[AssignmentId, Digest] = {}
        self._readers: Counter[Digest] = Counter()
        # In the folder, uploads are as they are without a bucket.
        self.kept_bytes = spool.kept_bytes
        self.partial_path = spool.partial_path
        self.draft_path = spool.draft_path
        self.forget_upload = spool.forget_upload

    async def open_partial(self, assignment_id: AssignmentId, digest: Digest, size_bytes: int) -> PartialFile:
        """Begin an upload, or go on with it.

        Raises:
            OverloadedError: DISK_FULL.
            UpdateRefusedError: UPDATE_TOO_LARGE, for a bucket.
        """
        if size_bytes > MAX_FILE_BYTES:
            raise UpdateRefusedError(
                Reason.UPDATE_TOO_LARGE, f"file: expected at most {MAX_FILE_BYTES} bytes (S3), got {size_bytes}"
            )
        return await self._spool.open_partial(assignment_id, digest, size_bytes)

    async def keep_update(self, assignment_id: AssignmentId, digest: Digest) -> None:
        """A sealed upload becomes an update."""
        await self._put(self._spool.partial_path(assignment_id, digest), _update_name(assignment_id, digest), digest)
        await self._spool.keep_update(assignment_id, digest)
        self._verified[assignment_id] = digest

    async def keep_adapter(self, assignment_id: AssignmentId, digest: Digest) -> None:
        """A sealed upload becomes an adapter."""
        await self._put(self._spool.partial_path(assignment_id, digest), _adapter_name(digest), digest)
        await self._spool.keep_adapter(assignment_id, digest)

    async def keep_candidate(self, draft: Path, digest: Digest) -> None:
        """A candidate that is written becomes an adapter."""
        await self._put(draft, _adapter_name(digest), digest)
        await self._spool.keep_candidate(draft, digest)

    async def keep_beside_updates(self, draft: Path, kept_under: AssignmentId, digest: Digest) -> None:
        """A strategy's state, or part of an adapter, that is written lies with the updates."""
        await self._put(draft, _update_name(kept_under, digest), digest)
        await self._spool.keep_beside_updates(draft, kept_under, digest)
        self._verified[kept_under] = digest

    @asynccontextmanager
    async def update(self, assignment_id: AssignmentId, digest: Digest) -> AsyncIterator[Path]:
        """An accepted update, to read: its name in the folder is without its digest, so an earlier life's is hashed."""
        path = self._spool.update_path(assignment_id)
        is_known = self._verified.get(assignment_id) == digest and path.exists()
        if not is_known and not await asyncio.to_thread(_holds, path, digest):
            await self._fetch(_update_name(assignment_id, digest), digest, path)
        self._verified[assignment_id] = digest
        yield path

    @asynccontextmanager
    async def adapter(self, digest: Digest) -> AsyncIterator[Path]:
        """An adapter, to read; it stays in the folder for as long as somebody reads it or an open run needs it."""
        path = self._spool.adapter_path(digest)
        self._readers[digest] += 1
        try:
            if not path.exists():
                await self._fetch(_adapter_name(digest), digest, path)
            yield path
        finally:
            self._readers -= Counter([digest])
            self._drop({digest})

    async def delete_updates(self, assignment_ids: Sequence[AssignmentId]) -> None:
        """Remove updates and partial uploads of these assignments; it is the end of a round, or of one upload."""
        await self._spool.delete_updates(assignment_ids)
        for each in assignment_ids:
            self._verified.pop(each, None)
        ended = frozenset(assignment_ids)
        # None begins any more, without its file in the folder; one that has begun would end after the look.
        under_way = [put for (kind, name), put in self._under_way.items() if kind == "put" and _is_of(ended, name)]
        if under_way:
            await asyncio.wait(under_way)
        await self._in_thread(partial(self._delete_updates, ended))
        self._drop(self._spool.adapters())

    async def sweep(
        self, live: Set[AssignmentId], accepted: Mapping[AssignmentId, Digest], adapters: Set[Digest]
    ) -> int:
        """Remove what `BlobFolder.sweep` does, in the folder and in the bucket, where other names are left alone.

        In the bucket only what was there when it was opened: one that is stopped in the middle of this, for so long
        that another coordinator takes over, then finds files that it does not know. What is wanted and lies in the
        folder alone, which had no bucket in an earlier life, is put.
        """
        swept = await self._spool.sweep(live, accepted, adapters)
        swept += await self._in_thread(partial(self._sweep, accepted, adapters))
        self._drop(self._spool.adapters())
        return swept

    async def close(self) -> None:
        """End what is under way, or leave it behind when the bucket says nothing.

        It does no harm: it puts, and fetches, whole files under the names of their content.
        """
        self._bucket.stop()
        await asyncio.to_thread(self._threads.close, END_SECONDS)
        for each in list(self._under_way.values()):
            each.cancel()

    async def _put(self, path: Path, name: str, digest: Digest) -> None:
        await self._once(("put", name), partial(self._bucket.put, path, name, digest))

    async def _fetch(self, name: str, digest: Digest, target: Path) -> None:
        await self._once(("fetch", name), partial(self._bucket.fetch, name, digest, target, self._spool.check_room))

    async def _once(self, key: tuple[str, str], work: Callable[[], None]) -> None:
        """Whoever wants the same while it is under way waits for it; it goes on when a caller hangs up."""
        if key not in self._under_way:
            self._under_way[key] = asyncio.get_running_loop().run_in_executor(self._threads, work)
            self._under_way[key].add_done_callback(partial(self._end, key))
        await asyncio.shield(self._under_way[key])

    def _end(self, key: tuple[str, str], done: asyncio.Future[None]) -> None:
        del self._under_way[key]
        if not done.cancelled():
            done.exception()  # told to those who wait, if anybody still does

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _delete_updates(self, assignment_ids: Set[AssignmentId]) -> None:
        for each in list(self._bucket.stored("updates/")):
            if _OWN_NAME.fullmatch(each.name) and _is_of(assignment_ids, each.name):
                self._bucket.delete(each.name)

    def _sweep(self, accepted: Mapping[AssignmentId, Digest], adapters: Set[Digest]) -> int:
        folders = ("updates/", "adapters/")
        stored = {each.name: each.put_at for folder in folders for each in self._bucket.stored(folder)}
        wanted = {_update_name(*each): (self._spool.update_path(each[0]), each[1]) for each in accepted.items()}
        wanted |= {_adapter_name(each): (self._spool.adapter_path(each), each) for each in adapters}
        for name in wanted.keys() - stored.keys():
            path, digest = wanted[name]
            if _holds(path, digest):
                self._bucket.put(path, name, digest)
        own = {name: put_at for name, put_at in stored.items() if _OWN_NAME.fullmatch(name)}
        orphans = [name for name in own.keys() - wanted.keys() if own[name] < self._bucket.opened_at]
        for name in orphans:
            self._bucket.delete(name)
        return len(orphans)

    def _drop(self, adapters: Set[Digest]) -> None:
        """Take out of the folder what nobody reads and no open run needs."""
        for digest in adapters - self._needed():
            if self._readers[digest] == 0:
                self._spool.adapter_path(digest).unlink(missing_ok=True)


def _update_name(assignment_id: AssignmentId, digest: Digest) -> str:
    return f"updates/{assignment_id}.{hex_of(digest)}.safetensors"


def _adapter_name(digest: Digest) -> str:
    return f"adapters/{hex_of(digest)}.safetensors"


def _is_of(assignment_ids: Set[AssignmentId], name: str) -> bool:
    folder, _, file = name.partition("/")
    return folder == "updates" and file.partition(".")[0] in assignment_ids


def _holds(path: Path, digest: Digest) -> bool:
    try:
        return file_digest(path) == digest
    except FileNotFoundError:
        return False

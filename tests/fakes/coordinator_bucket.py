"""Buckets of a real S3 server, and the store of files over them, as the wiring opens them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Set
from contextlib import asynccontextmanager
from pathlib import Path

from common.ids import AssignmentId, Digest, digest_of
from coordinator.adapters.storage.blob_folder import BlobFolder
from coordinator.adapters.storage.bucket import Bucket, BucketPlace
from coordinator.adapters.storage.bucket_blobs import BucketBlobs
from coordinator.adapters.storage.disk_room import DiskRoom
from coordinator.app.ports import BlobStore
from tests.seaweed import SeaweedServer

PREFIX = "consortium/"
# Buckets count whole seconds.
_BUCKET_SECONDS = 1.0


def place(server: SeaweedServer, folder: Path, prefix: str = PREFIX) -> BucketPlace:
    """The place of the bucket that belongs to ``folder``."""
    return BucketPlace(bucket=server.bucket(folder), prefix=prefix, endpoint=server.endpoint)


def opened_bucket(server: SeaweedServer, folder: Path, prefix: str = PREFIX) -> Bucket:
    """That bucket, opened now."""
    bucket = Bucket(place(server, folder, prefix))
    bucket.check()
    return bucket


async def until_what_was_put_is_older(blobs: BlobStore | None = None) -> None:
    """Wait until a start would find it older than itself; let a bucket's ``blobs`` start then."""
    await asyncio.sleep(_BUCKET_SECONDS)
    if isinstance(blobs, BucketBlobs):
        await asyncio.to_thread(blobs._bucket.check)


def nothing() -> Set[Digest]:
    """What is needed when no run is open."""
    return set()


@asynccontextmanager
async def bucket_blobs(
    server: SeaweedServer,
    folder: Path,
    *,
    spool: str = "spool",
    room: DiskRoom | None = None,
    needed: Callable[[], Set[Digest]] = nothing,
) -> AsyncIterator[BucketBlobs]:
    """The files in the bucket that belongs to ``folder``, over the local folder ``spool`` in it."""
    blobs = BucketBlobs(BlobFolder(folder / spool, room), opened_bucket(server, folder), needed)
    try:
        yield blobs
    finally:
        await blobs.close()


async def sealed(blobs: BucketBlobs, assignment_id: AssignmentId, content: bytes) -> None:
    """Let an upload arrive."""
    partial = await blobs.open_partial(assignment_id, digest_of(content), len(content))
    await partial.append(content)
    await partial.seal()
    await partial.close()

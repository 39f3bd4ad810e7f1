"""Buckets of a real S3 server, and the store of files over them, as the wiring opens them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Set
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

from common.ids import Digest
from coordinator.adapters.storage.blob_folder import BlobFolder
from coordinator.adapters.storage.bucket import Bucket, BucketPlace
from coordinator.adapters.storage.bucket_blobs import BucketBlobs
from coordinator.adapters.storage.disk_room import DiskRoom
from tests.seaweed import SeaweedServer

PREFIX = "consortium/"
# Whatever a test has put is older: a start sweeps what was there before it.
LATER = datetime(9999, 1, 1, tzinfo=UTC)


def place(server: SeaweedServer, folder: Path, prefix: str = PREFIX) -> BucketPlace:
    """The place of the bucket that belongs to ``folder``."""
    return BucketPlace(bucket=server.bucket(folder), prefix=prefix, endpoint=server.endpoint)


def opened_bucket(server: SeaweedServer, folder: Path, prefix: str = PREFIX) -> Bucket:
    """That bucket, as if it had been opened after everything that the test does."""
    bucket = Bucket(place(server, folder, prefix))
    bucket.opened_at = LATER
    return bucket


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

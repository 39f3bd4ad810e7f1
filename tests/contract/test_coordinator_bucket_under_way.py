"""Files on their way to a bucket, or from it, when their round ends or the process does."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.errors import Reason, UnavailableError
from common.ids import AssignmentId, digest_of
from coordinator.adapters.storage.blob_folder import BlobFolder
from coordinator.adapters.storage.bucket import CONNECTIONS, _StoppableFile
from coordinator.adapters.storage.bucket_blobs import END_SECONDS, BucketBlobs
from tests.fakes.broken_bucket import broken_bucket, silent
from tests.fakes.coordinator_bucket import bucket_blobs, sealed
from tests.running import wait_until
from tests.seaweed import SeaweedServer, environment

ONE, TWO = AssignmentId("1" * 32), AssignmentId("2" * 32)
CONTENT = b"content" * 1000
HELD_SECONDS = 30.0


class Hold:
    """Holds calls in the middle until they are let go."""

    def __init__(self) -> None:
        self.holding, self.released = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.holding.set()
        assert self.released.wait(HELD_SECONDS)

    async def reached(self) -> None:
        """Wait until a call is held."""
        assert await asyncio.to_thread(self.holding.wait, HELD_SECONDS)


@pytest.fixture
async def blobs(seaweed: SeaweedServer, tmp_path: Path) -> AsyncIterator[BucketBlobs]:
    async with bucket_blobs(seaweed, tmp_path) as blobs:
        yield blobs


@pytest.fixture
def puts(monkeypatch: pytest.MonkeyPatch) -> Hold:
    """Holds puts before they have read their file."""
    hold, read = Hold(), _StoppableFile.read

    def held(self: _StoppableFile, size: int | None = -1, /) -> bytes:
        hold()
        return read(self, size)

    monkeypatch.setattr(_StoppableFile, "read", held)
    return hold


@pytest.fixture
def fetches(monkeypatch: pytest.MonkeyPatch) -> Hold:
    """Holds fetches before they have read their file."""
    hold, check_room = Hold(), BlobFolder.check_room

    def held(self: BlobFolder, size_bytes: int) -> None:
        hold()
        check_room(self, size_bytes)

    monkeypatch.setattr(BlobFolder, "check_room", held)
    return hold


async def read_adapter(blobs: BucketBlobs, content: bytes) -> bytes:
    async with blobs.adapter(digest_of(content)) as path:
        return path.read_bytes()


def keys(seaweed: SeaweedServer, folder: Path) -> list[str]:
    return seaweed.keys(seaweed.bucket(folder))


# The end of a round


@pytest.mark.parametrize("hangs_up", [False, True], ids=["waits", "hangs up"])
async def test_an_update_that_is_being_put_when_its_round_ends_is_deleted_too(
    blobs: BucketBlobs, puts: Hold, seaweed: SeaweedServer, tmp_path: Path, hangs_up: bool
) -> None:
    await sealed(blobs, ONE, CONTENT)
    keeping = asyncio.create_task(blobs.keep_update(ONE, digest_of(CONTENT)))
    await puts.reached()
    put = next(iter(blobs._under_way.values()))
    if hangs_up:
        keeping.cancel()
    await asyncio.wait_for(blobs.delete_updates([TWO]), HELD_SECONDS)  # another round's end waits for nothing
    deleting = asyncio.create_task(blobs.delete_updates([ONE]))
    await asyncio.wait([deleting], timeout=0.5)
    puts.released.set()
    await asyncio.wait([keeping, deleting, put])
    assert deleting.exception() is None
    assert keys(seaweed, tmp_path) == []
    assert (keeping.cancelled(), put.exception()) == (hangs_up, None)


async def test_an_update_that_waits_to_be_put_when_its_round_ends_is_not_put(
    blobs: BucketBlobs, puts: Hold, seaweed: SeaweedServer, tmp_path: Path
) -> None:
    ids = [AssignmentId(str(number) * 32) for number in range(CONNECTIONS + 1)]
    for each in ids:
        await sealed(blobs, each, CONTENT)
    keeping = [asyncio.create_task(blobs.keep_update(each, digest_of(CONTENT))) for each in ids]
    await puts.reached()
    deleting = asyncio.create_task(blobs.delete_updates(ids))
    await asyncio.to_thread(wait_until, lambda: not list((tmp_path / "spool").rglob("*.*")), HELD_SECONDS)
    puts.released.set()
    await asyncio.wait([deleting, *keeping])
    assert deleting.exception() is None
    assert keys(seaweed, tmp_path) == []
    assert isinstance(keeping[-1].exception(), FileNotFoundError)


# The end of the process


async def test_what_is_being_put_at_the_end_of_the_process_fails(
    blobs: BucketBlobs, puts: Hold, seaweed: SeaweedServer, tmp_path: Path
) -> None:
    await sealed(blobs, ONE, CONTENT)
    keeping = asyncio.create_task(blobs.keep_update(ONE, digest_of(CONTENT)))
    await puts.reached()
    await ended(blobs, puts)
    with pytest.raises(UnavailableError) as away:
        await keeping
    assert away.value.reason is Reason.STORE_AWAY
    assert keys(seaweed, tmp_path) == []
    with pytest.raises(RuntimeError):
        await blobs.keep_update(ONE, digest_of(CONTENT))


async def test_what_is_being_fetched_at_the_end_of_the_process_fails(
    blobs: BucketBlobs, fetches: Hold, seaweed: SeaweedServer, tmp_path: Path
) -> None:
    fetches.released.set()
    await sealed(blobs, ONE, CONTENT)
    await blobs.keep_adapter(ONE, digest_of(CONTENT))
    fetches.released.clear()
    fetches.holding.clear()
    async with bucket_blobs(seaweed, tmp_path, spool="elsewhere") as elsewhere:
        reading = asyncio.create_task(read_adapter(elsewhere, CONTENT))
        await fetches.reached()
        await ended(elsewhere, fetches)
        with pytest.raises(UnavailableError) as away:
            await reading
    assert away.value.reason is Reason.STORE_AWAY
    assert [path for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()] == []


async def ended(blobs: BucketBlobs, hold: Hold) -> None:
    """End them while a call is held, which goes on then."""
    closing = asyncio.create_task(blobs.close())
    await asyncio.sleep(0)
    hold.released.set()
    await closing


def test_the_end_of_the_process_does_not_wait_for_a_bucket_that_says_nothing(tmp_path: Path) -> None:
    script = """
import asyncio, sys
from pathlib import Path
from common.ids import digest_of
from coordinator.adapters.storage.blob_folder import BlobFolder
from coordinator.adapters.storage.bucket import Bucket, BucketPlace
from coordinator.adapters.storage.bucket_blobs import BucketBlobs

async def end() -> None:
    blobs = BucketBlobs(BlobFolder(Path(sys.argv[2])), Bucket(BucketPlace(bucket="b", endpoint=sys.argv[1])), set)
    draft = blobs.draft_path("draft")
    draft.write_bytes(b"content")
    keeping = asyncio.create_task(blobs.keep_candidate(draft, digest_of(b"content")))
    reading = asyncio.create_task(blobs.adapter(digest_of(b"another")).__aenter__())
    await asyncio.to_thread(sys.stdin.read)
    began = asyncio.get_running_loop().time()
    await blobs.close()
    print(asyncio.get_running_loop().time() - began)
    await asyncio.gather(keeping, reading, return_exceptions=True)

asyncio.run(end())
"""
    with broken_bucket(silent) as server:
        process = subprocess.Popen(
            [sys.executable, "-c", script, f"http://{server.address}", str(tmp_path / "spool")],
            env=os.environ | environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            assert server.connected.wait(HELD_SECONDS)
            said, errors = process.communicate("", timeout=END_SECONDS + HELD_SECONDS)
        finally:
            process.kill()
    assert (process.returncode, errors) == (0, "")
    assert float(said) < END_SECONDS + 5.0

"""What every blob store must keep: one suite, run on each implementation; and what only files on a disk can do."""

from __future__ import annotations

import asyncio
import os
import stat
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from common.errors import InputInvalidError, OverloadedError, Reason
from common.ids import AssignmentId, Digest, digest_of
from coordinator.adapters.storage.blob_folder import BlobFolder, PartialFile
from coordinator.adapters.storage.disk_room import DiskRoom
from coordinator.app.ports import BlobStore
from tests.fakes.coordinator_bucket import bucket_blobs, until_what_was_put_is_older
from tests.seaweed import SeaweedServer

ONE, TWO, THREE, FOUR = (AssignmentId(digit * 32) for digit in "1234")
CONTENT = bytes(range(256)) * 10


@pytest.fixture(params=["folder", "bucket"])
async def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[BlobStore]:
    if request.param == "folder":
        yield BlobFolder(tmp_path)
        return
    server: SeaweedServer = request.getfixturevalue("seaweed")
    async with bucket_blobs(server, tmp_path) as opened:
        yield opened


async def the_update(blobs: BlobStore, assignment_id: AssignmentId, content: bytes = CONTENT) -> bytes | None:
    """What is read of an update; None when it is gone."""
    try:
        async with blobs.update(assignment_id, digest_of(content)) as path:
            return path.read_bytes()
    except FileNotFoundError:
        return None


async def the_adapter(blobs: BlobStore, content: bytes = CONTENT) -> bytes | None:
    """What is read of an adapter; None when it is gone."""
    try:
        async with blobs.adapter(digest_of(content)) as path:
            return path.read_bytes()
    except FileNotFoundError:
        return None


async def arrive(blobs: BlobStore, assignment_id: AssignmentId, content: bytes, digest: Digest | None = None) -> Digest:
    """Let ``content`` arrive, in two chunks, and seal it."""
    digest = digest or digest_of(content)
    partial = await blobs.open_partial(assignment_id, digest, len(content))
    await partial.append(content[:100])
    await partial.append(content[100:])
    sealed = await partial.seal()
    await partial.close()
    return sealed


# Uploads that arrive


async def test_what_arrives_has_its_digest_and_its_bytes(blobs: BlobStore) -> None:
    assert await arrive(blobs, ONE, CONTENT) == digest_of(CONTENT)
    assert blobs.partial_path(ONE, digest_of(CONTENT)).read_bytes() == CONTENT


async def test_nothing_has_arrived_of_an_upload_never_begun(blobs: BlobStore) -> None:
    assert await blobs.kept_bytes(ONE, digest_of(CONTENT)) == 0


async def test_an_upload_goes_on_where_it_stopped(blobs: BlobStore) -> None:
    digest = digest_of(CONTENT)
    partial = await blobs.open_partial(ONE, digest, len(CONTENT))
    await partial.append(CONTENT[:1000])
    await partial.close()
    assert await blobs.kept_bytes(ONE, digest) == 1000
    again = await blobs.open_partial(ONE, digest, len(CONTENT))
    assert again.offset == 1000
    await again.append(CONTENT[1000:])
    assert (again.offset, await again.seal()) == (len(CONTENT), digest)
    await again.close()


async def test_an_upload_of_another_digest_starts_anew_and_forgets_the_first(blobs: BlobStore) -> None:
    await arrive(blobs, ONE, CONTENT)
    other = await blobs.open_partial(ONE, digest_of(b"other"), 5)
    assert other.offset == 0
    await other.close()
    assert await blobs.kept_bytes(ONE, digest_of(CONTENT)) == 0


async def test_uploads_of_two_assignments_lie_side_by_side(blobs: BlobStore) -> None:
    await arrive(blobs, ONE, CONTENT)
    await arrive(blobs, TWO, CONTENT)
    assert await blobs.kept_bytes(ONE, digest_of(CONTENT)) == await blobs.kept_bytes(TWO, digest_of(CONTENT))


@pytest.mark.parametrize("digest", ["sha256:../../../etc/passwd", "sha256:" + "A" * 64, "", "md5:" + "0" * 64])
async def test_a_digest_that_is_none_reaches_no_path(blobs: BlobStore, digest: str) -> None:
    with pytest.raises(InputInvalidError):
        blobs.partial_path(ONE, Digest(digest))
    with pytest.raises(InputInvalidError):
        async with blobs.adapter(Digest(digest)):
            pass


async def test_what_has_arrived_is_forgotten_and_what_is_kept_is_not(blobs: BlobStore) -> None:
    await arrive(blobs, ONE, CONTENT)
    await arrive(blobs, TWO, CONTENT)
    await blobs.keep_update(TWO, digest_of(CONTENT))
    for assignment_id in (ONE, TWO, THREE):
        await blobs.forget_upload(assignment_id)
    assert await blobs.kept_bytes(ONE, digest_of(CONTENT)) == 0
    assert await the_update(blobs, TWO) == CONTENT


# Updates and adapters


async def test_a_sealed_upload_becomes_the_update(blobs: BlobStore) -> None:
    await arrive(blobs, ONE, CONTENT)
    await blobs.keep_update(ONE, digest_of(CONTENT))
    assert await the_update(blobs, ONE) == CONTENT
    assert await blobs.kept_bytes(ONE, digest_of(CONTENT)) == 0


async def test_a_sealed_upload_becomes_an_adapter(blobs: BlobStore) -> None:
    await arrive(blobs, ONE, CONTENT)
    await blobs.keep_adapter(ONE, digest_of(CONTENT))
    assert await the_adapter(blobs) == CONTENT


async def test_a_candidate_that_is_written_becomes_an_adapter(blobs: BlobStore) -> None:
    draft = blobs.draft_path("run-1")
    draft.write_bytes(CONTENT)
    await blobs.keep_candidate(draft, digest_of(CONTENT))
    assert await the_adapter(blobs) == CONTENT
    assert not draft.exists()


async def test_a_state_that_is_written_is_kept_beside_updates_and_goes_with_them(blobs: BlobStore) -> None:
    draft = blobs.draft_path("run-1.state")
    draft.write_bytes(CONTENT)
    await blobs.keep_beside_updates(draft, ONE, digest_of(CONTENT))
    assert await the_update(blobs, ONE) == CONTENT
    assert not draft.exists()
    await until_what_was_put_is_older(blobs)
    assert await blobs.sweep(set(), {ONE: digest_of(CONTENT)}, set()) == 0
    await blobs.delete_updates([ONE])
    assert await the_update(blobs, ONE) is None


async def test_what_was_never_kept_is_not_there(blobs: BlobStore) -> None:
    assert (await the_update(blobs, ONE), await the_adapter(blobs)) == (None, None)


async def test_the_same_adapter_from_two_runs_is_one_file(blobs: BlobStore) -> None:
    for assignment_id in (ONE, TWO):
        await arrive(blobs, assignment_id, CONTENT)
        await blobs.keep_adapter(assignment_id, digest_of(CONTENT))
    assert await the_adapter(blobs) == CONTENT


async def test_an_adapter_is_read_by_many_at_once(blobs: BlobStore) -> None:
    await arrive(blobs, ONE, CONTENT)
    await blobs.keep_adapter(ONE, digest_of(CONTENT))
    async with asyncio.TaskGroup() as group:
        readers = [group.create_task(the_adapter(blobs)) for _ in range(20)]
    assert {reader.result() for reader in readers} == {CONTENT}


async def test_deleting_takes_updates_and_uploads_of_those_assignments_alone(blobs: BlobStore) -> None:
    for assignment_id in (ONE, FOUR):
        await arrive(blobs, assignment_id, CONTENT)
        await blobs.keep_update(assignment_id, digest_of(CONTENT))
    await arrive(blobs, TWO, CONTENT)
    await arrive(blobs, THREE, CONTENT)
    await blobs.delete_updates([ONE, TWO])
    assert await the_update(blobs, ONE) is None
    assert await blobs.kept_bytes(TWO, digest_of(CONTENT)) == 0
    assert await blobs.kept_bytes(THREE, digest_of(CONTENT)) == len(CONTENT)
    assert await the_update(blobs, FOUR) == CONTENT


async def test_deleting_what_is_gone_is_no_error(blobs: BlobStore) -> None:
    await blobs.delete_updates([ONE])
    await blobs.delete_updates([])
    assert await the_update(blobs, ONE) is None


# Sweeping


async def test_sweeping_keeps_live_uploads_accepted_updates_and_adapters_of_runs(blobs: BlobStore) -> None:
    adapter = b"adapter" * 100
    await arrive(blobs, ONE, CONTENT)
    await arrive(blobs, TWO, CONTENT)
    await blobs.keep_update(TWO, digest_of(CONTENT))
    await arrive(blobs, THREE, adapter)
    await blobs.keep_adapter(THREE, digest_of(adapter))
    await until_what_was_put_is_older(blobs)
    assert await blobs.sweep({ONE}, {TWO: digest_of(CONTENT)}, {digest_of(adapter)}) == 0
    assert await blobs.kept_bytes(ONE, digest_of(CONTENT)) == len(CONTENT)
    assert await the_update(blobs, TWO) == CONTENT
    assert await the_adapter(blobs, adapter) == adapter


async def test_sweeping_removes_dead_uploads_and_updates_that_were_never_accepted(blobs: BlobStore) -> None:
    await arrive(blobs, ONE, CONTENT)
    await arrive(blobs, TWO, CONTENT)
    await blobs.keep_update(TWO, digest_of(CONTENT))
    await until_what_was_put_is_older(blobs)
    assert await blobs.sweep({TWO}, {ONE: digest_of(CONTENT)}, set()) >= 2
    assert await blobs.kept_bytes(ONE, digest_of(CONTENT)) == 0
    assert await the_update(blobs, TWO) is None


async def test_sweeping_removes_half_written_candidates(blobs: BlobStore) -> None:
    draft = blobs.draft_path("run-1")
    beside = draft.with_name(".run-1.draft.0123.partial")
    for half in (draft, beside):
        half.write_bytes(b"half")
    assert await blobs.sweep(set(), {}, set()) == 2
    assert not draft.exists() and not beside.exists()


async def test_sweeping_removes_adapters_of_no_run(blobs: BlobStore) -> None:
    await arrive(blobs, ONE, CONTENT)
    await blobs.keep_adapter(ONE, digest_of(CONTENT))
    await until_what_was_put_is_older(blobs)
    assert await blobs.sweep(set(), {}, {digest_of(b"another")}) >= 1
    assert await the_adapter(blobs) is None


# Files on a disk


def test_only_the_coordinator_may_read_its_files(tmp_path: Path) -> None:
    async def play() -> None:
        await arrive(BlobFolder(tmp_path), ONE, CONTENT)

    asyncio.run(play())
    for path in tmp_path.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


async def test_a_cancelled_write_cannot_reach_the_next_file_that_gets_its_handle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partial = await BlobFolder(tmp_path).open_partial(ONE, digest_of(CONTENT), len(CONTENT))
    write = os.pwrite
    is_closing = threading.Event()

    def close() -> None:
        is_closing.set()
        asyncio.run(partial.close())

    closer = threading.Thread(target=close)

    def write_while_someone_closes(handle: int, content: bytes, offset: int) -> int:
        if not closer.ident:
            closer.start()
            is_closing.wait()
            closer.join(0.1)  # a close that did not wait for this write would be done by then
        return write(handle, content, offset)

    monkeypatch.setattr(os, "pwrite", write_while_someone_closes)
    await partial.append(CONTENT)
    closer.join()
    assert (tmp_path / "updates" / f"{ONE}.{digest_of(CONTENT).removeprefix('sha256:')}.part").read_bytes() == CONTENT


async def test_an_upload_that_is_cancelled_as_it_is_opened_leaves_no_open_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs, digest = BlobFolder(tmp_path), digest_of(CONTENT)
    await arrive(blobs, ONE, CONTENT)
    is_reading, may_read = threading.Event(), threading.Event()
    read = os.pread

    def read_when_told(handle: int, count: int, offset: int) -> bytes:
        is_reading.set()
        may_read.wait()
        return read(handle, count, offset)

    monkeypatch.setattr(os, "pread", read_when_told)
    before = open_file_count()
    for _ in range(10):
        opening = asyncio.ensure_future(blobs.open_partial(ONE, digest, len(CONTENT)))
        await asyncio.to_thread(is_reading.wait)
        opening.cancel()
        may_read.set()
        with pytest.raises(asyncio.CancelledError):
            await opening
        is_reading.clear()
        may_read.clear()
    assert open_file_count() == before


def open_file_count() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# Room, before the first byte


async def refused_for_room(blobs: BlobFolder, assignment_id: AssignmentId, size_bytes: int) -> bool:
    try:
        await (await blobs.open_partial(assignment_id, digest_of(CONTENT), size_bytes)).close()
    except OverloadedError as error:
        assert (error.reason, error.retryable) == (Reason.DISK_FULL, True)
        return True
    return False


async def test_an_upload_without_room_beside_the_reserve_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    free = os.statvfs(tmp_path).f_bavail * os.statvfs(tmp_path).f_frsize
    assert await refused_for_room(BlobFolder(tmp_path, DiskRoom(reserve_bytes=2 * free)), ONE, 1)
    assert await refused_for_room(BlobFolder(tmp_path), ONE, 2 * free)
    assert list((tmp_path / "updates").iterdir()) == []
    assert not await refused_for_room(BlobFolder(tmp_path), ONE, 1)


async def test_uploads_under_way_are_counted_as_if_they_had_arrived(tmp_path: Path) -> None:
    blobs = BlobFolder(tmp_path, DiskRoom(quota_bytes=3 * len(CONTENT)))
    first = await blobs.open_partial(ONE, digest_of(CONTENT), 2 * len(CONTENT))
    assert await refused_for_room(blobs, TWO, 2 * len(CONTENT))
    await first.append(CONTENT)
    assert await refused_for_room(blobs, TWO, 2 * len(CONTENT))
    assert not await refused_for_room(blobs, TWO, len(CONTENT))
    await first.close()  # cut: what did not arrive is not waited for
    assert not await refused_for_room(blobs, TWO, 2 * len(CONTENT))


async def test_uploads_that_go_on_side_by_side_need_what_is_missing_of_each(tmp_path: Path) -> None:
    half = len(CONTENT) // 2
    for assignment_id in (ONE, TWO):
        await arrive(BlobFolder(tmp_path), assignment_id, CONTENT[:half], digest_of(CONTENT))
    blobs = BlobFolder(tmp_path, DiskRoom(quota_bytes=2 * len(CONTENT)))
    first = PartialFile(blobs.partial_path(ONE, digest_of(CONTENT)), len(CONTENT), blobs._arriving)  # not hashed yet
    assert not await refused_for_room(blobs, TWO, len(CONTENT))
    await first.close()


async def test_a_quota_counts_what_lies_there_and_an_upload_that_goes_on_once(tmp_path: Path) -> None:
    blobs = BlobFolder(tmp_path, DiskRoom(quota_bytes=2 * len(CONTENT)))
    await blobs.keep_adapter(ONE, await arrive(blobs, ONE, CONTENT))
    await arrive(blobs, TWO, CONTENT)
    assert await refused_for_room(blobs, THREE, 1)
    assert not await refused_for_room(blobs, TWO, len(CONTENT))
    await blobs.delete_updates([TWO])
    assert not await refused_for_room(blobs, THREE, len(CONTENT))


def test_a_disk_that_really_has_no_room_is_full_and_keeps_what_it_has(tmp_path: Path) -> None:
    # A limit on file size is the full disk that a test without privileges can have.
    script = """
import asyncio, resource, sys
from pathlib import Path
from common.errors import OverloadedError
from common.ids import AssignmentId, digest_of
from coordinator.adapters.storage.blob_folder import BlobFolder

async def play():
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    partial = await BlobFolder(Path(sys.argv[1])).open_partial(AssignmentId("1" * 32), digest_of(b""), 1400)
    await partial.append(b"x" * 700)
    try:
        await partial.append(b"y" * 700)
    except OverloadedError as error:
        print(error.reason, partial.offset, await partial.seal() == digest_of(b"x" * 700))

asyncio.run(play())
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "DISK_FULL 700 True\n"
    (path,) = (tmp_path / "updates").iterdir()
    assert path.read_bytes() == b"x" * 700

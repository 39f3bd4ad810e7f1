"""What only a bucket does: a folder that is lost, a server that is away, names of others, a start that is refused."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import (
    InputInvalidError,
    OverloadedError,
    Reason,
    TransferBrokenError,
    UnavailableError,
    UpdateRefusedError,
)
from common.ids import AssignmentId, digest_of
from coordinator.adapters.storage.blob_folder import BlobFolder
from coordinator.adapters.storage.bucket import MAX_FILE_BYTES, Bucket, BucketPlace, opened
from coordinator.adapters.storage.bucket_blobs import BucketBlobs
from coordinator.adapters.storage.disk_room import DiskRoom
from tests.fakes.coordinator_bucket import (
    PREFIX,
    bucket_blobs,
    opened_bucket,
    place,
    sealed,
    until_what_was_put_is_older,
)
from tests.running import free_port
from tests.seaweed import READER_KEY_ID, READER_SECRET, SECRET, SeaweedServer, environment

ONE, TWO = AssignmentId("1" * 32), AssignmentId("2" * 32)
CONTENT, OTHER = b"content" * 1000, b"another" * 1000


@pytest.fixture
async def blobs(seaweed: SeaweedServer, tmp_path: Path) -> AsyncIterator[BucketBlobs]:
    async with bucket_blobs(seaweed, tmp_path) as blobs:
        yield blobs


async def keep_update(blobs: BucketBlobs, assignment_id: AssignmentId, content: bytes) -> None:
    await sealed(blobs, assignment_id, content)
    await blobs.keep_update(assignment_id, digest_of(content))


async def keep_adapter(blobs: BucketBlobs, content: bytes) -> None:
    await sealed(blobs, ONE, content)
    await blobs.keep_adapter(ONE, digest_of(content))


async def the_update(blobs: BucketBlobs, assignment_id: AssignmentId, content: bytes) -> bytes:
    async with blobs.update(assignment_id, digest_of(content)) as path:
        return path.read_bytes()


async def the_adapter(blobs: BucketBlobs, content: bytes) -> bytes:
    async with blobs.adapter(digest_of(content)) as path:
        return path.read_bytes()


def hex_of(content: bytes) -> str:
    return digest_of(content).removeprefix("sha256:")


def files(folder: Path) -> list[str]:
    """Every file below it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


# Another machine, or the same one with another disk


async def test_what_was_kept_is_read_where_nothing_of_it_lies(
    blobs: BucketBlobs, seaweed: SeaweedServer, tmp_path: Path
) -> None:
    await keep_update(blobs, ONE, CONTENT)
    await keep_adapter(blobs, OTHER)
    async with bucket_blobs(seaweed, tmp_path, spool="elsewhere") as elsewhere:
        assert await the_update(elsewhere, ONE, CONTENT) == CONTENT
        assert await the_adapter(elsewhere, OTHER) == OTHER
        with pytest.raises(FileNotFoundError):
            await the_update(elsewhere, ONE, OTHER)
    assert seaweed.keys(seaweed.bucket(tmp_path)) == [
        f"{PREFIX}adapters/{hex_of(OTHER)}.safetensors",
        f"{PREFIX}updates/{ONE}.{hex_of(CONTENT)}.safetensors",
    ]


async def test_an_update_that_an_earlier_life_left_is_read_only_if_it_is_the_accepted_one(
    blobs: BucketBlobs, seaweed: SeaweedServer, tmp_path: Path
) -> None:
    await keep_update(blobs, ONE, OTHER)  # and then another coordinator took over, and the site sent again
    async with bucket_blobs(seaweed, tmp_path, spool="elsewhere") as elsewhere:
        await keep_update(elsewhere, ONE, CONTENT)
    async with bucket_blobs(seaweed, tmp_path) as again:
        assert await the_update(again, ONE, CONTENT) == CONTENT


async def test_what_is_not_the_content_of_its_name_is_not_read_and_leaves_nothing(
    blobs: BucketBlobs, seaweed: SeaweedServer, tmp_path: Path
) -> None:
    key = f"{PREFIX}adapters/{hex_of(CONTENT)}.safetensors"
    seaweed.client().put_object(Bucket=seaweed.bucket(tmp_path), Key=key, Body=OTHER)
    with pytest.raises(TransferBrokenError) as broken:
        await the_adapter(blobs, CONTENT)
    assert (broken.value.reason, broken.value.retryable) == (Reason.DIGEST_DIFFERS, True)
    assert files(tmp_path / "spool") == []


async def test_a_file_that_changed_on_the_disk_is_not_kept(
    blobs: BucketBlobs, seaweed: SeaweedServer, tmp_path: Path
) -> None:
    await sealed(blobs, ONE, CONTENT)
    blobs.partial_path(ONE, digest_of(CONTENT)).write_bytes(OTHER)
    with pytest.raises(UnavailableError):
        await blobs.keep_update(ONE, digest_of(CONTENT))
    assert seaweed.keys(seaweed.bucket(tmp_path)) == []


async def test_many_readers_of_one_file_bring_it_here_once(
    blobs: BucketBlobs, seaweed: SeaweedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await keep_adapter(blobs, CONTENT)
    fetch, fetched = Bucket.fetch, list[str]()

    def counting(self: Bucket, name: str, *arguments: Any) -> None:
        fetched.append(name)
        fetch(self, name, *arguments)

    monkeypatch.setattr(Bucket, "fetch", counting)
    async with bucket_blobs(seaweed, tmp_path, spool="elsewhere") as elsewhere, asyncio.TaskGroup() as group:
        for _ in range(20):
            group.create_task(the_adapter(elsewhere, CONTENT))
    assert len(fetched) == 1


async def test_what_a_folder_held_before_it_had_a_bucket_is_put_there_at_a_start(
    seaweed: SeaweedServer, tmp_path: Path
) -> None:
    alone = BlobFolder(tmp_path / "spool")
    for assignment_id, content in ((ONE, CONTENT), (TWO, OTHER)):
        partial = await alone.open_partial(assignment_id, digest_of(content), len(content))
        await partial.append(content)
        await partial.close()
    await alone.keep_update(ONE, digest_of(CONTENT))
    await alone.keep_adapter(TWO, digest_of(OTHER))
    async with bucket_blobs(seaweed, tmp_path) as blobs:
        assert await blobs.sweep(set(), {ONE: digest_of(CONTENT)}, {digest_of(OTHER)}) == 0
    async with bucket_blobs(seaweed, tmp_path, spool="elsewhere") as elsewhere:
        assert await the_update(elsewhere, ONE, CONTENT) == CONTENT
        assert await the_adapter(elsewhere, OTHER) == OTHER


# The folder is a cache


async def test_only_adapters_that_an_open_run_needs_or_somebody_reads_stay_in_the_folder(
    seaweed: SeaweedServer, tmp_path: Path
) -> None:
    needed = {digest_of(CONTENT)}
    async with bucket_blobs(seaweed, tmp_path, needed=lambda: needed) as blobs:
        for content in (CONTENT, OTHER):
            await keep_adapter(blobs, content)
        async with blobs.adapter(digest_of(OTHER)) as path:
            await the_adapter(blobs, OTHER)
            await blobs.delete_updates([])
            assert path.exists()
        assert files(tmp_path / "spool") == [f"adapters/{hex_of(CONTENT)}.safetensors"]
        needed.clear()
        await blobs.delete_updates([])  # a round has ended
        assert files(tmp_path / "spool") == []
        assert (await the_adapter(blobs, CONTENT), await the_adapter(blobs, OTHER)) == (CONTENT, OTHER)


async def test_what_finds_no_room_here_is_refused_and_leaves_nothing(seaweed: SeaweedServer, tmp_path: Path) -> None:
    async with bucket_blobs(seaweed, tmp_path) as blobs:
        await keep_adapter(blobs, CONTENT)
    small = DiskRoom(quota_bytes=len(CONTENT) - 1)
    async with bucket_blobs(seaweed, tmp_path, spool="elsewhere", room=small) as elsewhere:
        with pytest.raises(OverloadedError) as full:
            await the_adapter(elsewhere, CONTENT)
    assert full.value.reason is Reason.DISK_FULL
    assert files(tmp_path / "elsewhere") == []


async def test_a_file_that_one_request_cannot_put_is_refused_before_its_first_byte(
    blobs: BucketBlobs, tmp_path: Path
) -> None:
    with pytest.raises(UpdateRefusedError) as refused:
        await blobs.open_partial(ONE, digest_of(CONTENT), MAX_FILE_BYTES + 1)
    assert refused.value.reason is Reason.UPDATE_TOO_LARGE
    assert files(tmp_path / "spool") == []


def test_memory_does_not_grow_with_the_file(seaweed: SeaweedServer, tmp_path: Path) -> None:
    script = """
import asyncio, resource, sys
from pathlib import Path
from common.weights_io import file_digest
from coordinator.adapters.storage.bucket import Bucket, BucketPlace

bucket = Bucket(BucketPlace(bucket=sys.argv[1], endpoint=sys.argv[2]))
source = Path(sys.argv[3])
for size_bytes in (1 << 20, 200 << 20):
    with source.open("wb") as file:
        file.truncate(size_bytes)
    digest = file_digest(source)
    bucket.put(source, "file", digest)
    bucket.fetch("file", digest, source.with_suffix(".copy"), lambda size_bytes: None)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""
    arguments = [seaweed.bucket(tmp_path), seaweed.endpoint, str(tmp_path / "file")]
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=True)
    small, large = map(int, done.stdout.split())
    assert large - small < 16 << 20


# A server that is away


async def test_what_cannot_be_kept_now_is_refused_for_now_and_kept_when_the_server_is_back(
    blobs: BucketBlobs, seaweed: SeaweedServer, tmp_path: Path
) -> None:
    await sealed(blobs, ONE, CONTENT)
    await sealed(blobs, TWO, CONTENT)
    seaweed.stop()
    try:
        with pytest.raises(UnavailableError) as away:
            await blobs.keep_update(ONE, digest_of(CONTENT))
        assert (away.value.reason, away.value.retryable) == (Reason.STORE_AWAY, True)
        with pytest.raises(UnavailableError):
            await the_adapter(blobs, CONTENT)
        with pytest.raises(UnavailableError):
            await blobs.delete_updates([TWO])
        await blobs.forget_upload(TWO)  # a refusal needs no bucket
    finally:
        seaweed.start()
    assert await blobs.kept_bytes(ONE, digest_of(CONTENT)) == len(CONTENT)
    await blobs.keep_update(ONE, digest_of(CONTENT))
    assert await the_update(blobs, ONE, CONTENT) == CONTENT


def test_a_file_that_is_being_put_when_the_process_is_asked_to_end_is_let_go(
    seaweed: SeaweedServer, tmp_path: Path
) -> None:
    bucket = opened_bucket(seaweed, tmp_path)
    (tmp_path / "file").write_bytes(CONTENT)
    bucket.stop()
    with pytest.raises(UnavailableError):
        bucket.put(tmp_path / "file", "file", digest_of(CONTENT))
    assert seaweed.keys(seaweed.bucket(tmp_path)) == []


# Whose files they are


async def test_sweeping_leaves_alone_what_is_not_of_its_own_form_or_prefix(
    blobs: BucketBlobs, seaweed: SeaweedServer, tmp_path: Path
) -> None:
    bucket, name = seaweed.bucket(tmp_path), f"adapters/{hex_of(CONTENT)}.safetensors"
    others = [name, f"another/{name}", f"{PREFIX}{name}.bak", f"{PREFIX}adapters/notes.txt", f"{PREFIX}store"]
    for key in (*others, f"{PREFIX}{name}", f"{PREFIX}updates/{ONE}.{hex_of(CONTENT)}.safetensors"):
        seaweed.client().put_object(Bucket=bucket, Key=key, Body=b"x")
    await until_what_was_put_is_older(blobs)
    assert await blobs.sweep(set(), {}, set()) == 2
    await blobs.delete_updates([ONE])
    assert seaweed.keys(bucket) == sorted(others)


async def test_sweeping_leaves_what_came_after_the_start_which_may_be_the_next_coordinators(
    seaweed: SeaweedServer, tmp_path: Path
) -> None:
    async with bucket_blobs(seaweed, tmp_path) as blobs:
        await keep_update(blobs, ONE, CONTENT)
        assert await blobs.sweep(set(), {}, set()) == 1  # what lies in the folder, which is this one's alone
        assert await the_update(blobs, ONE, CONTENT) == CONTENT


def test_files_of_another_database_are_not_taken_for_orphans(seaweed: SeaweedServer, tmp_path: Path) -> None:
    bucket = opened_bucket(seaweed, tmp_path)
    for _ in range(2):
        bucket.claim("1" * 32)
    with pytest.raises(InputInvalidError) as refused:
        bucket.claim("2" * 32)
    assert refused.value.reason is Reason.CONFIG_INVALID
    assert "belongs to another database" in refused.value.message


# A start


def started(where: BucketPlace) -> str:
    """What a start says of that place; empty when it takes it."""
    try:
        with opened(where):
            return ""
    except (InputInvalidError, UnavailableError) as error:
        assert isinstance(error, UnavailableError) == (error.reason is Reason.STORE_AWAY)
        return f"{error.reason}: {error.message}"


def test_a_start_leaves_nothing_in_the_bucket(seaweed: SeaweedServer, tmp_path: Path) -> None:
    assert started(place(seaweed, tmp_path)) == ""
    assert seaweed.keys(seaweed.bucket(tmp_path)) == []


def test_a_start_says_what_was_expected_and_what_came(
    seaweed: SeaweedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, key_id = place(seaweed, tmp_path), environment()["AWS_ACCESS_KEY_ID"]
    away = f"http://127.0.0.1:{free_port()}"
    expected = "a bucket in which objects may be put, read, listed and deleted"
    said = {
        "no bucket": started(replace(there, bucket="nowhere")),
        "no server": started(replace(there, endpoint=away)),
        "no S3": started(replace(there, endpoint=f"http://127.0.0.1:{seaweed.ports['master'][0]}")),
    }
    for name, keys in {"reads only": (READER_KEY_ID, READER_SECRET), "not the key": (key_id, "not-" + SECRET)}.items():
        with monkeypatch.context() as patch:
            for variable, value in environment(*keys).items():
                patch.setenv(variable, value)
            said[name] = started(there)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    said["no key"] = started(there)

    where, without = f"s3://{there.bucket}/{PREFIX} at {seaweed.endpoint}", "CONFIG_INVALID: blobs: s3://"
    assert said["no bucket"].endswith(f"expected {expected}, got NoSuchBucket (404) to PutObject")
    assert said["no server"] == (
        f"STORE_AWAY: blobs: s3://{there.bucket}/{PREFIX} at {away}: expected an answer, got EndpointConnectionError"
    )
    assert said["no S3"].startswith(without)
    assert (
        said["reads only"]
        == f"CONFIG_INVALID: blobs: {where}: expected {expected}, got AccessDenied (403) to PutObject"
    )
    assert said["not the key"].endswith("got SignatureDoesNotMatch (403) to PutObject")
    assert "expected credentials in AWS_ACCESS_KEY_ID" in said["no key"]
    assert [name for name, text in said.items() if SECRET in text or READER_SECRET in text] == []

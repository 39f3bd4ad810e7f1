"""A bucket behind what breaks off, or answers for it: only a bucket's own word says that a file is not there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import InputInvalidError, Reason, UnavailableError
from common.ids import digest_of
from coordinator.adapters.storage.bucket import Bucket, BucketPlace, opened
from tests.fakes.broken_bucket import (
    BrokenBucket,
    answering,
    broken_bucket,
    hanging_up,
    own_certificate,
    spoiling,
)
from tests.seaweed import environment

CONTENT = b"content" * 1000
DIGEST = digest_of(CONTENT)
NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
PAGE = b"<html><head><title>404 Not Found</title></head><body><center>nginx</center></body></html>"
PAGE_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(PAGE), PAGE)


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in environment().items():
        monkeypatch.setenv(name, value)


def place_at(server: BrokenBucket, scheme: str = "http") -> BucketPlace:
    return BucketPlace(bucket="bucket", endpoint=f"{scheme}://{server.address}")


def put(bucket: Bucket, folder: Path) -> None:
    (folder / "file").write_bytes(CONTENT)
    bucket.put(folder / "file", "file", DIGEST)


def fetch(bucket: Bucket, folder: Path) -> None:
    bucket.fetch("file", DIGEST, folder / "fetched", lambda size_bytes: None)


def claim(bucket: Bucket, folder: Path) -> None:
    bucket.claim("1" * 32)


def sweep(bucket: Bucket, folder: Path) -> None:
    list(bucket.stored())


def away(work: Callable[[Bucket, Path], None], bucket: Bucket, folder: Path) -> bool:
    """Whether the work is refused for now."""
    with pytest.raises(UnavailableError) as refused:
        work(bucket, folder)
    return refused.value.reason is Reason.STORE_AWAY


def started(where: BucketPlace) -> str:
    """Why a start does not take that place."""
    with pytest.raises((InputInvalidError, UnavailableError)) as refused, opened(where):
        pass
    return str(refused.value.reason)


# In the middle


def test_a_connection_that_is_spoiled_in_a_body_is_a_bucket_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(CONTENT) + CONTENT[:10]
    context = own_certificate(tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.pem"))
    with broken_bucket(spoiling(context, head)) as server:
        bucket = Bucket(place_at(server, "https"))
        assert away(fetch, bucket, tmp_path)
        assert away(claim, bucket, tmp_path)
    assert not (tmp_path / "fetched").exists()


@pytest.mark.parametrize("work", [put, fetch, claim, sweep])
@pytest.mark.parametrize("answer", [NOT_FOUND, PAGE_NOT_FOUND], ids=["bare", "page"])
def test_a_404_that_is_not_the_buckets_own_word_says_nothing_of_a_file(
    work: Callable[[Bucket, Path], None], answer: bytes, tmp_path: Path
) -> None:
    with broken_bucket(answering(answer)) as server:
        assert away(work, Bucket(place_at(server)), tmp_path)


def test_a_page_where_a_list_was_expected_is_a_bucket_that_is_away(tmp_path: Path) -> None:
    with broken_bucket(answering(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n<p>Welcome<br>")) as server:
        assert away(sweep, Bucket(place_at(server)), tmp_path)


# At a start


def test_what_waiting_does_not_mend_is_the_configurations_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: dict[str, str] = {}
    context = own_certificate(tmp_path)
    (tmp_path / "config").write_text("no AWS configuration")
    (tmp_path / "wrong.pem").write_text("no certificate")
    with broken_bucket(spoiling(context, NOT_FOUND)) as server:
        there = place_at(server, "https")
        said["unknown CA"] = started(there)
        for name in ("wrong.pem", "missing.pem"):
            with monkeypatch.context() as patch:
                patch.setenv("AWS_CA_BUNDLE", str(tmp_path / name))
                said[name] = started(there)
        with monkeypatch.context() as patch:
            patch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
            said["config"] = started(there)
    said["endpoint"] = started(BucketPlace(bucket="bucket", endpoint="no URL"))
    with broken_bucket(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")) as server:
        said["no S3"] = started(place_at(server))
    assert set(said.items()) == {(name, "CONFIG_INVALID") for name in said}


def test_what_may_pass_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, str] = {}
    for code in ("RequestTimeout", "SlowDown"):
        body = f"<Error><Code>{code}</Code></Error>".encode()
        head = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        with broken_bucket(answering(head + body)) as server:
            said[code] = started(place_at(server))
    for scheme in ("http", "https"):
        with broken_bucket(hanging_up) as server:
            said[scheme] = started(place_at(server, scheme))
    assert set(said.items()) == {(name, "STORE_AWAY") for name in said}

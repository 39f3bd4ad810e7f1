"""An S3 bucket, spoken to with botocore: whole files in and out, checked by their digest. Knows no round and no thread.

A file is put by one request, which the bucket takes whole or not at all, with the SHA-256 that it must have
(docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html). It goes to and from the disk piece by
piece, so memory does not grow with it.
"""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import botocore.session
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectionClosedError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    EndpointConnectionError,
    NoCredentialsError,
    PartialCredentialsError,
    ProfileNotFound,
    ProxyConnectionError,
    ReadTimeoutError,
    ResponseStreamingError,
    SSLError,
)
from botocore.parsers import ResponseParserError
from urllib3.exceptions import HTTPError

from common.errors import InputInvalidError, Reason, TransferBrokenError, UnavailableError
from common.files import replacing
from common.ids import Digest
from common.logging import get_logger
from coordinator.adapters.storage.disk_room import telling_full_disk

# What one request can put, 5 GiB (docs.aws.amazon.com/AmazonS3/latest/userguide/qfacts.html).
MAX_FILE_BYTES = 5 * 2**30
CONNECT_SECONDS = 5
# A bucket that sends nothing, and takes nothing, for so long is away.
PROGRESS_SECONDS = 60
# Inside one call; whoever calls tries again, with pauses that grow.
ATTEMPTS = 2
CONNECTIONS = 4
_READ_BYTES = 2**20
_MARK, _PROBE = "store", "probe"
# The one word for a file that is not there. A bare 404 may be a proxy's, which knows of no file.
_ABSENT = "NoSuchKey"
_FAILURES = (BotoCoreError, ResponseParserError, HTTPError)
_NO_CONNECTION = (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ProxyConnectionError,
    ReadTimeoutError,
    ResponseStreamingError,
)
_PASSING_STATUS = frozenset({408, 429})
# Those that may come with a status of another meaning.
_PASSING_CODES = frozenset(
    {"OperationAborted", "RequestLimitExceeded", "RequestTimeout", "SlowDown", "Throttling", "ThrottlingException"}
)
_WORD = re.compile(r"[A-Za-z0-9.]{1,60}")


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketPlace:
    """Where the files are.

    Attributes:
        prefix: What every name begins with; empty, or ends with a slash.
        endpoint: URL of an S3 that is not Amazon's; empty for Amazon's.
        region: Empty for what the machine's own AWS configuration says.
    """

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = ""

    def __str__(self) -> str:
        """For people."""
        return f"s3://{self.bucket}/{self.prefix}" + (f" at {self.endpoint}" if self.endpoint else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A name below the prefix, and when the bucket got the file."""

    name: str
    put_at: datetime


@contextmanager
def opened(place: BucketPlace) -> Iterator[Bucket]:
    """The bucket, once files can be put, read, listed and deleted in it.

    Raises:
        UnavailableError: STORE_AWAY, when it cannot be reached.
        InputInvalidError: CONFIG_INVALID, when it is not there, or lets this process do less.
    """
    bucket = Bucket(place)
    try:
        bucket.check()
        yield bucket
    finally:
        bucket.stop()


class Bucket:
    """Files in a bucket, by names below its prefix. Threads may call it at once."""

    def __init__(self, place: BucketPlace) -> None:
        self._place = place
        self._is_stopping = threading.Event()
        self._is_away = False
        self.opened_at: datetime
        try:
            self._client = _client(place)
        except (BotoCoreError, ValueError) as error:
            raise _invalid(place, error) from None

    def check(self) -> None:
        """Try what the coordinator will do, and note the bucket's own time; for what it raises see `opened`."""
        key = self._key(_PROBE)
        try:
            self._client.put_object(Bucket=self._place.bucket, Key=key, Body=b"")
            answer = self._client.head_object(Bucket=self._place.bucket, Key=key)
            self._client.list_objects_v2(Bucket=self._place.bucket, Prefix=key)
            self._client.delete_object(Bucket=self._place.bucket, Key=key)
            self.opened_at = answer["LastModified"]
        except (*_FAILURES, ClientError, KeyError) as error:
            raise _invalid(self._place, error) from None

    def claim(self, store_id: str) -> None:
        """Mark the files as those of the store ``store_id``.

        Raises:
            InputInvalidError: CONFIG_INVALID, they are another store's: sweeping would remove them.
            UnavailableError: STORE_AWAY.
        """
        key = self._key(_MARK)
        with self._asking():
            try:
                answer = self._client.get_object(Bucket=self._place.bucket, Key=key)
                found = answer["Body"].read(64).decode(errors="replace")
            except ClientError as error:
                if _code(error) != _ABSENT:
                    raise
                self._client.put_object(Bucket=self._place.bucket, Key=key, Body=store_id.encode())
                return
        if found != store_id:
            raise InputInvalidError(
                Reason.CONFIG_INVALID,
                f"blobs: {self._place} belongs to another database: expected {store_id} in {key}, got another; "
                "give each coordinator's database a prefix of its own",
            )

    def put(self, path: Path, name: str, digest: Digest) -> None:
        """Keep the file; when this returns, the bucket has it, whole and with that digest.

        Raises:
            UnavailableError: STORE_AWAY.
            FileNotFoundError: there is no such file here.
        """
        checksum = base64.b64encode(bytes.fromhex(digest.removeprefix("sha256:"))).decode()
        with _StoppableFile(path, self._is_stopping) as body, self._asking():
            self._client.put_object(Bucket=self._place.bucket, Key=self._key(name), Body=body, ChecksumSHA256=checksum)

    def fetch(self, name: str, digest: Digest, target: Path, check_room: Callable[[int], None]) -> None:
        """Bring the file to ``target``, whole or not at all; ``check_room`` is told its size first.

        Raises:
            FileNotFoundError: the bucket has none of that name.
            TransferBrokenError: DIGEST_DIFFERS.
            UnavailableError: STORE_AWAY.
            OverloadedError: DISK_FULL.
        """
        running = hashlib.sha256()
        with self._asking():
            try:
                answer = self._client.get_object(Bucket=self._place.bucket, Key=self._key(name))
            except ClientError as error:
                if _code(error) != _ABSENT:
                    raise
                raise FileNotFoundError(errno.ENOENT, "not in the bucket") from None
            check_room(answer["ContentLength"])
            with telling_full_disk(), replacing(target, mode=0o600) as file:
                for piece in answer["Body"].iter_chunks(_READ_BYTES):
                    self._check_not_stopping()
                    running.update(piece)
                    file.write(piece)
                got = f"sha256:{running.hexdigest()}"
                if got != digest:
                    raise TransferBrokenError(Reason.DIGEST_DIFFERS, f"bucket: expected {digest}, got {got}")

    def stored(self, folder: str = "") -> Iterator[StoredFile]:
        """Every file whose name begins with ``folder``.

        Raises:
            UnavailableError: STORE_AWAY.
        """
        pages = self._client.get_paginator("list_objects_v2")
        with self._asking():
            for page in pages.paginate(Bucket=self._place.bucket, Prefix=self._key(folder)):
                for each in page.get("Contents", ()):
                    name = each["Key"].removeprefix(self._place.prefix)
                    yield StoredFile(name=name, put_at=each["LastModified"])

    def delete(self, name: str) -> None:
        """Remove the file; one that is gone is no error.

        Raises:
            UnavailableError: STORE_AWAY.
        """
        with self._asking():
            self._client.delete_object(Bucket=self._place.bucket, Key=self._key(name))

    def stop(self) -> None:
        """The process is about to end: what is being put or fetched fails soon."""
        self._is_stopping.set()

    def _key(self, name: str) -> str:
        return self._place.prefix + name

    def _check_not_stopping(self) -> None:
        if self._is_stopping.is_set():
            raise _away()

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Tell what a call meets in the project's own errors, and the log when the bucket goes away or comes back."""
        self._check_not_stopping()
        try:
            yield
        except ClientError as error:
            self._note(is_away=True, reason=_code(error))
            raise _away() from None
        except _FAILURES as error:  # of a body that is being read, botocore lets some of urllib3's own through
            self._note(is_away=True, reason=type(error).__name__)
            raise _away() from None
        self._note(is_away=False, reason="")

    def _note(self, *, is_away: bool, reason: str) -> None:
        if is_away is not self._is_away and not self._is_stopping.is_set():
            self._is_away = is_away
            get_logger("storage").warning("bucket_away" if is_away else "bucket_back", reason=reason or None)


class _StoppableFile(io.FileIO):
    """A file to put, which ends when the process does."""

    def __init__(self, path: Path, is_stopping: threading.Event) -> None:
        super().__init__(path)
        self._is_stopping = is_stopping

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes.

        Raises:
            UnavailableError: STORE_AWAY, the process is about to end.
        """
        if self._is_stopping.is_set():
            raise _away()
        return super().read(-1 if size is None else size)


def _client(place: BucketPlace) -> Any:
    """A client of botocore; credentials come from where AWS's own tools look for them."""
    session = botocore.session.Session()
    region = place.region or session.get_config_variable("region") or ("us-east-1" if place.endpoint else None)
    config = Config(
        connect_timeout=CONNECT_SECONDS,
        read_timeout=PROGRESS_SECONDS,
        retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
        max_pool_connections=CONNECTIONS,
        tcp_keepalive=True,
        # The content's own SHA-256 is sent and compared; servers that are not Amazon's may not know the other ones.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # bucket.s3.example.org needs a name and a certificate for each bucket, which an own server seldom has.
        s3={"addressing_style": "path" if place.endpoint else "auto", "payload_signing_enabled": True},
    )
    return session.create_client("s3", region_name=region, endpoint_url=place.endpoint or None, config=config)


def _code(error: ClientError) -> str:
    """The server's word for what is wrong."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    return code if _WORD.fullmatch(code) else "unknown"


def _away() -> UnavailableError:
    return UnavailableError(Reason.STORE_AWAY, "the coordinator's bucket is away; try again later")


def _invalid(place: BucketPlace, error: Exception) -> InputInvalidError | UnavailableError:
    """Why the bucket cannot be used at a start: expected against got, without what a server says in words."""
    no_credentials = (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, ProfileNotFound)
    if isinstance(error, no_credentials):
        expected = "credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, in AWS's own files, or of the machine"
        return InputInvalidError(Reason.CONFIG_INVALID, f"blobs: {place}: expected {expected}, got none")
    got = type(error).__name__
    if not isinstance(error, ClientError):
        is_away = isinstance(error, _NO_CONNECTION) or _is_cut_off(error)
        expected = "settings and certificates that work, and S3"
    else:
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        is_away = status >= 500 or status in _PASSING_STATUS or _code(error) in _PASSING_CODES
        expected = "a bucket in which objects may be put, read, listed and deleted"
        got = f"{_code(error)} ({status}) to {error.operation_name}"
    if is_away:
        return UnavailableError(Reason.STORE_AWAY, f"blobs: {place}: expected an answer, got {got}")
    return InputInvalidError(Reason.CONFIG_INVALID, f"blobs: {place}: expected {expected}, got {got}")


def _is_cut_off(error: Exception) -> bool:
    """Whether a TLS connection ended before it stood, as at a balancer that has nobody behind it."""
    cause: BaseException | None = error.kwargs.get("error") if isinstance(error, SSLError) else None
    while cause is not None and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        cause = cause.__cause__ or cause.__context__
    return cause is not None

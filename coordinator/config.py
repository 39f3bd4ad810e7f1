"""The coordinator's configuration file (TOML), validated whole. Only `coordinator.wiring` sees these objects."""

from __future__ import annotations

from typing import Annotated, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, model_validator
from pydantic_core import PydanticCustomError

from common.config import ByteSize, ConfigPath, ListenAddress, LogLevel, Seconds
from common.polling import MAX_POLL_HOLD_SECONDS


def _database_url(text: object) -> object:
    """Check the form of a URL. No part of one that is refused is shown, since it may hold a password."""
    try:
        url = urlsplit(text) if isinstance(text, str) else None
        is_valid = text == "" or (url is not None and url.scheme == "postgresql+psycopg" and (url.port or 1) > 0)
        is_valid = is_valid and (url is None or url.netloc.count("@") <= 1)  # in a password it is written %40
    except ValueError:  # a port that is no number, brackets that do not match
        is_valid = False
    if not is_valid:
        expected = (
            "expected '' (SQLite, in state_folder) or postgresql+psycopg://[user[:password]@]host[:port]/database"
        )
        raise PydanticCustomError("secret_shown", expected)
    if url is not None and {"password", "sslpassword"} & parse_qs(url.query, keep_blank_values=True).keys():
        raise PydanticCustomError(
            "secret_shown", "expected the password before the @ or in libpq's passfile, not after ?"
        )
    return text


# A SQLAlchemy URL; empty for SQLite in the state folder. Secret, because of the password that it may hold.
DatabaseUrl = Annotated[SecretStr, BeforeValidator(_database_url)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CoordinatorSection(_Section):
    """Where it listens, and where it keeps what it must not lose."""

    listen: ListenAddress = "0.0.0.0:8443"
    state_folder: ConfigPath
    database: DatabaseUrl = SecretStr("")
    poll_hold: Seconds = Field(default=20.0, ge=0.1, le=MAX_POLL_HOLD_SECONDS)
    stream_progress_deadline: Seconds = Field(default=60.0, ge=1, le=3600)
    disk_reserve: ByteSize = Field(default=256 * 2**20, ge=0)
    disk_quota: ByteSize = Field(default=0, ge=0)


def _endpoint(text: object) -> object:
    """Check the form of a URL. One that is refused is not shown, since it may hold a key."""
    try:
        url = urlsplit(text) if isinstance(text, str) else None
        is_valid = text == "" or (
            url is not None
            and url.scheme in ("http", "https")
            and bool(url.hostname)
            and (url.port or 1) > 0
            and url.geturl().rstrip("/") == f"{url.scheme}://{url.netloc}"
            and "@" not in url.netloc
        )
    except ValueError:  # a port that is no number, brackets that do not match
        is_valid = False
    if not is_valid:
        raise PydanticCustomError("secret_shown", "expected '' (Amazon's) or http[s]://host[:port], without a key")
    return text


class BlobsSection(_Section):
    """The S3 bucket in which updates and adapters are kept; none: they are kept in the state folder.

    Keys are not in the file: they come from where AWS's own tools look for them.
    """

    bucket: str = Field(default="", pattern=r"^([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])?$")
    prefix: str = Field(default="", pattern=r"^([A-Za-z0-9_-][A-Za-z0-9_.-]{0,62}/){0,8}$")
    endpoint: Annotated[str, BeforeValidator(_endpoint)] = ""
    region: str = Field(default="", pattern=r"^[a-z0-9-]{0,63}$")

    @model_validator(mode="after")
    def _names_a_bucket(self) -> Self:
        if not self.bucket and (self.prefix or self.endpoint or self.region):
            raise ValueError("expected a bucket beside prefix, endpoint and region")
        return self


class EnrolmentSection(_Section):
    """How sites become members here; without an issuing CA their certificates come from elsewhere."""

    listen: ListenAddress = ""
    issuing_ca: ConfigPath | None = None
    certificate_life: Seconds = Field(default=7 * 86_400.0, ge=900, le=397 * 86_400)

    @model_validator(mode="after")
    def _has_a_ca(self) -> Self:
        if self.listen and self.issuing_ca is None:
            raise ValueError("expected issuing_ca beside listen: who enrols gets a certificate")
        return self


class IdentitySection(_Section):
    """The folder with key.pem, certificate.pem and trust_bundle.pem."""

    folder: ConfigPath


class MetricsSection(_Section):
    """Where Prometheus scrapes; empty for nowhere."""

    listen: ListenAddress = "127.0.0.1:9100"


class LogSection(_Section):
    """How much is logged."""

    level: LogLevel = "INFO"


class CoordinatorConfig(_Section):
    """The whole file."""

    coordinator: CoordinatorSection
    blobs: BlobsSection = BlobsSection()
    identity: IdentitySection
    enrolment: EnrolmentSection = EnrolmentSection()
    metrics: MetricsSection = MetricsSection()
    log: LogSection = LogSection()

"""The coordinator's configuration file (TOML), validated whole. Only `coordinator.wiring` sees these objects."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from common.config import ByteSize, ConfigPath, ListenAddress, LogLevel, Seconds
from common.polling import MAX_POLL_HOLD_SECONDS


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CoordinatorSection(_Section):
    """Where it listens, and where it keeps what it must not lose."""

    listen: ListenAddress = "0.0.0.0:8443"
    state_folder: ConfigPath
    poll_hold: Seconds = Field(default=20.0, ge=0.1, le=MAX_POLL_HOLD_SECONDS)
    stream_progress_deadline: Seconds = Field(default=60.0, ge=1, le=3600)
    disk_reserve: ByteSize = Field(default=256 * 2**20, ge=0)
    disk_quota: ByteSize = Field(default=0, ge=0)


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
    identity: IdentitySection
    metrics: MetricsSection = MetricsSection()
    log: LogSection = LogSection()

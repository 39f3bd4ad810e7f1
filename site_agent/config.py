"""The site agent's configuration file (TOML), validated whole. Only `site_agent.wiring` and the commands see it."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationInfo, model_validator

from common.adapter import MAX_LORA_RANK
from common.config import ConfigPath, ListenAddress, LogLevel, Seconds, SecretPath
from common.errors import InputInvalidError
from common.ids import Digest, check_digest
from common.terms import Task


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _somewhere(address: str) -> str:
    if not address:
        raise ValueError("expected host:port")
    return address


def _folder_or_hub_id(location: str, info: ValidationInfo) -> str:
    """A path, relative to the configuration's folder, begins with '.' or '/'; anything else is a hub id."""
    if info.context and location.startswith((".", "/")):
        return str(info.context["folder"] / location)
    return location


def _digest(value: str) -> Digest:
    try:
        return check_digest(value, "digest")
    except InputInvalidError as error:
        raise ValueError(error.message) from None


class CoordinatorSection(_Section):
    """Whom the agent dials."""

    address: Annotated[ListenAddress, AfterValidator(_somewhere)]
    server_name: str = ""


class IdentitySection(_Section):
    """The folder with key.pem, certificate.pem and trust_bundle.pem; the agent's role is in the certificate."""

    folder: ConfigPath


class SiteSection(_Section):
    """Where the agent keeps what it must not lose."""

    state_folder: ConfigPath


class BaseModelSection(_Section):
    """The model on this site's disk."""

    location: Annotated[str, Field(min_length=1), AfterValidator(_folder_or_hub_id)]
    name: str = ""
    weights_digest: Annotated[Digest, AfterValidator(_digest)] | None = None


class NotesSection(_Section):
    """Annotated passages, read by the trainer alone."""

    train: tuple[ConfigPath, ...] = ()
    validation: tuple[ConfigPath, ...] = ()
    validation_passages: int = Field(default=0, ge=0)
    test: tuple[ConfigPath, ...] = ()
    tasks: Annotated[tuple[Task, ...], Field(min_length=1)] = tuple(Task)


class TrainerSection(_Section):
    """How the trainer works."""

    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    threads: int = Field(default=0, ge=0, le=1024)
    checkpoint_every: Seconds = Field(default=300.0, ge=0, le=86_400)
    command: tuple[str, ...] = ()


class PolicySection(_Section):
    """What this site takes part in: a file of its own, or, where there is none yet, the strategies."""

    file: ConfigPath | None = None
    strategies: tuple[str, ...] = ("fed_medlora",)
    max_lora_rank: int = Field(default=0, ge=0, le=MAX_LORA_RANK)

    @property
    def narrowed_to(self) -> tuple[str, ...] | None:
        """The strategies, where they stand in this file; beside a policy's own file they make it narrower."""
        return self.strategies if "strategies" in self.model_fields_set else None


class PersonalSection(_Section):
    """What stays at this site of its adapters, in runs whose strategy leaves something there."""

    head_start: str = Field(default="", pattern=r"^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)?$")


class MetricsSection(_Section):
    """Where the hospital's Prometheus scrapes; empty for nowhere."""

    listen: ListenAddress = "127.0.0.1:9101"
    certificate: ConfigPath | None = None
    key: SecretPath | None = None
    client_ca: ConfigPath | None = None

    @model_validator(mode="after")
    def _needs_both(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("expected certificate and key together")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("expected certificate and key beside client_ca")
        return self


class LogSection(_Section):
    """How much is logged."""

    level: LogLevel = "INFO"


class SiteConfig(_Section):
    """The whole file."""

    coordinator: CoordinatorSection
    identity: IdentitySection
    site: SiteSection
    base_model: BaseModelSection
    data: NotesSection = NotesSection()
    trainer: TrainerSection = TrainerSection()
    policy: PolicySection = PolicySection()
    personal: PersonalSection = PersonalSection()
    metrics: MetricsSection = MetricsSection()
    log: LogSection = LogSection()

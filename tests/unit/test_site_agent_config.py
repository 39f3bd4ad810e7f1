from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from common.config import load_toml
from common.errors import InputInvalidError
from site_agent.config import SiteConfig

EXAMPLE = Path(__file__).parents[2] / "docker" / "config" / "site.example.toml"
SMALLEST = """
coordinator.address = "coordinator:8443"
identity.folder = "identity"
site.state_folder = "state"
base_model.location = "organisation/model"
"""


def load(tmp_path: Path, text: str) -> SiteConfig:
    path = tmp_path / "site.toml"
    path.write_text(text)
    return load_toml(path, SiteConfig)


def fields_of(model: type[BaseModel]) -> set[str]:
    """``section.key`` of everything that can be configured."""
    sections = {name: field.annotation for name, field in model.model_fields.items()}
    return {
        f"{name}.{key}"
        for name, section in sections.items()
        if isinstance(section, type) and issubclass(section, BaseModel)
        for key in section.model_fields
    }


def test_the_example_is_valid() -> None:
    assert load_toml(EXAMPLE, SiteConfig).coordinator.address == "coordinator.example.org:8443"


def test_the_example_documents_every_key_and_each_is_valid_as_shown(tmp_path: Path) -> None:
    text = re.sub(r"^# (\w+ = )", r"\1", EXAMPLE.read_text(), flags=re.M)
    config = load(tmp_path, text)
    documented = {
        f"{section}.{key}" for section in SiteConfig.model_fields for key in getattr(config, section).model_fields_set
    }
    assert documented == fields_of(SiteConfig)


def test_four_keys_are_enough(tmp_path: Path) -> None:
    config = load(tmp_path, SMALLEST)
    assert (config.trainer.device, config.policy.strategies, config.log.level) == (
        "auto",
        ("fed_medlora",),
        "INFO",
    )


def test_paths_are_relative_to_the_file_and_hub_ids_are_no_paths(tmp_path: Path) -> None:
    config = load(tmp_path, SMALLEST)
    assert (config.site.state_folder, config.base_model.location) == (tmp_path / "state", "organisation/model")
    moved = load(tmp_path, SMALLEST.replace("organisation/model", "./model"))
    assert moved.base_model.location == str(tmp_path / "model")


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        ("site.colour = 1", "site.colour: unknown key"),
        ('trainer.device = "tpu"', "trainer.device: "),
        ("trainer.threads = -1", "trainer.threads: "),
        ('base_model.weights_digest = "sha256:12"', "base_model.weights_digest: "),
        ('metrics.certificate = "certificate.pem"', "metrics: expected certificate and key together"),
        ('metrics.client_ca = "ca.pem"', "metrics: expected certificate and key beside client_ca"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, extra: str, problem: str) -> None:
    with pytest.raises(InputInvalidError, match=re.escape(problem)):
        load(tmp_path, SMALLEST + extra)


def test_an_agent_without_a_coordinator_is_not_configured(tmp_path: Path) -> None:
    with pytest.raises(InputInvalidError, match=r"coordinator\.address: expected host:port"):
        load(tmp_path, SMALLEST.replace("coordinator:8443", ""))

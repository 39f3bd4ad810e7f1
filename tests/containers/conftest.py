"""The compose file's federation, built and run once for all tests of this folder."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import skip_unless_ci
from tests.containers.engine import RUN_SECONDS, Engine, build_images, isolated_engine, missing_part
from tests.tiny_model import make_tiny_model

ROUNDS = 1


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random two-layer model: what is tested is the containers, and training it takes seconds."""
    folder = make_tiny_model(tmp_path_factory.mktemp("models") / "tiny-llama")
    for file in folder.iterdir():
        file.chmod(0o644)  # the containers' user is not ours
    return folder


@pytest.fixture(scope="session")
def federation(base_model: Path) -> Iterator[Engine]:
    """The federation after its run: prepared, enrolled, trained, published; its services still up."""
    if reason := missing_part():
        skip_unless_ci(reason)
    environment = {"BASE_MODEL": str(base_model), "ROUNDS": str(ROUNDS), "EXAMPLES": "8"}
    build_images(_prometheus_image(environment))
    with isolated_engine(environment) as engine:
        engine.compose("down", "--volumes", "--timeout", "5")  # of a session that was killed
        try:
            engine.compose("up", "--detach", "--no-build", timeout=RUN_SECONDS)
            engine.docker("wait", engine.inspect("operator")["Id"], timeout=RUN_SECONDS)
            _wait_for_scrapes(engine, time.time())
            yield engine
        finally:
            engine.compose("down", "--volumes", "--timeout", "5")


def _wait_for_scrapes(engine: Engine, ended_at: float) -> None:
    """Until Prometheus has scraped every process since the run ended; at most a dozen of its intervals."""
    for _ in range(60):
        scraped_at = [float(each["value"][1]) for each in engine.query("timestamp(up)")]
        if scraped_at and min(scraped_at) > ended_at:
            return
        time.sleep(1)
    raise AssertionError("Prometheus has stopped scraping")


def _prometheus_image(environment: dict[str, str]) -> str:
    """The name that the compose file gives it; the stand-in takes that name."""
    project = json.loads(Engine(environment=environment).compose("config", "--format", "json"))
    return str(project["services"]["prometheus"]["image"])

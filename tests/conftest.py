"""What every test starts from: TLS hardened before anything imports grpc, as in each process; no timed examples.

A test that needs what not every machine has carries a marker (pyproject.toml lists them) or asks for a fixture of this
module; where the thing is missing it is skipped, and the end of the report says why.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

from common.tls import harden_tls

harden_tls()
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

ROOT = Path(__file__).parents[1]
CORPORA = Path(os.environ.get("FEDMED_CORPORA", ROOT.parent / "shared/data"))
BASE_MODEL = ROOT / ".cache/smollm2-135m"
ENGINE_PROGRAMS = ("dockerd", "docker", "iptables", "mmdebstrap", "unshare")


def _without_corpora() -> str | None:
    found = (CORPORA / "phee/train.jsonl").is_file()
    return None if found else "no annotated corpora: FEDMED_CORPORA= names the folder that holds phee/train.jsonl"


def _without_gpu() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "no CUDA device"


def _without_engine() -> str | None:
    if os.geteuid() != 0:
        return "a throw-away Docker engine needs root"
    missing = [program for program in ENGINE_PROGRAMS if shutil.which(program) is None]
    return f"a throw-away Docker engine needs {', '.join(missing)}" if missing else None


_WITHOUT: dict[str, Callable[[], str | None]] = {
    "corpora": _without_corpora,
    "gpu": _without_gpu,
    "containers": _without_engine,
}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test whose marker asks for what is not here."""
    for marker, why_not in _WITHOUT.items():
        if item.get_closest_marker(marker) is not None and (why := why_not()) is not None:
            pytest.skip(why)


@pytest.fixture(scope="session")
def corpora() -> Path:
    """Folder of the annotated corpora, one folder each."""
    if (why := _without_corpora()) is not None:
        pytest.skip(why)
    return CORPORA


@pytest.fixture(scope="session")
def real_base_model() -> Path:
    """Folder of SmolLM2-135M, which ``make test`` and ``make demo`` make."""
    if not (BASE_MODEL / "config.json").is_file():
        pytest.skip("no base model: make setup puts it into .cache")
    return BASE_MODEL


@pytest.fixture(scope="session")
def promtool() -> str:
    """Prometheus's own checker; beside it lies Prometheus."""
    if (path := shutil.which("promtool")) is None:
        pytest.skip("no Prometheus: Debian's package `prometheus` has it")
    return path

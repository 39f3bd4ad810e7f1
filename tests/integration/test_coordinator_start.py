"""How a coordinator process starts: what it says when it cannot, and what it knows from its earlier lives."""

from __future__ import annotations

import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.running import Consortium, free_port, make_consortium, running_coordinator  # isort: skip  (hardens TLS first)

from common.tls import Role
from fedmedlora.v1 import rounds_pb2, rounds_pb2_grpc

START_SECONDS = 60.0


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return make_consortium(tmp_path_factory.mktemp("consortium"))


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield int(listener.getsockname()[1])


def started(folder: Path, consortium: Consortium, port: int, metrics_port: int) -> subprocess.CompletedProcess[str]:
    """Start a coordinator and wait for its end."""
    config = folder / "coordinator.toml"
    config.write_text(
        f'[coordinator]\nlisten = "127.0.0.1:{port}"\nstate_folder = "{folder / "state"}"\n'
        f'[identity]\nfolder = "{consortium.identity("coordinator", Role.COORDINATOR)}"\n'
        f'[metrics]\nlisten = "127.0.0.1:{metrics_port}"\n',
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "coordinator", "serve", "--config", str(config)]
    return subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, check=False)


def test_a_metrics_port_that_is_taken_is_said_in_one_sentence(
    tmp_path: Path, consortium: Consortium, taken_port: int
) -> None:
    ended = started(tmp_path, consortium, free_port(), taken_port)
    assert ended.returncode == 1
    assert ended.stderr == f"metrics.listen 127.0.0.1:{taken_port}: Address already in use\n"


def test_a_port_that_is_taken_is_said_in_one_sentence(tmp_path: Path, consortium: Consortium, taken_port: int) -> None:
    ended = started(tmp_path, consortium, taken_port, free_port())
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1] == f"coordinator.listen 127.0.0.1:{taken_port}: Address already in use"


def test_a_site_not_heard_of_since_a_restart_is_shown_as_absent(consortium: Consortium) -> None:
    with running_coordinator(consortium, poll_hold="100ms") as coordinator:
        with coordinator.channel(consortium.identity("anna", Role.SITE)) as channel:
            rounds_pb2_grpc.RoundServiceStub(channel).AwaitAssignment(rounds_pb2.AwaitAssignmentRequest(), timeout=10)
        assert 'fedmed_site_present{site="anna"}' in metrics_of(coordinator.metrics_port)
    with running_coordinator(consortium, poll_hold="100ms") as coordinator:
        assert 'fedmed_site_present{site="anna"} 0.0' in metrics_of(coordinator.metrics_port)


def metrics_of(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        return str(response.read().decode())

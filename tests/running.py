"""A real coordinator process over real sockets, for tests: its consortium, its port, clients of any role."""

from __future__ import annotations

import hashlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import cycle, islice
from pathlib import Path

from common.tls import Role, harden_tls

harden_tls()

import grpc  # noqa: E402

from common.tls import CHANNEL_OPTIONS, channel_credentials, load_identity  # noqa: E402
from coordinator.adapters.pki.ca import create_ca, issue  # noqa: E402

START_SECONDS = STOP_SECONDS = 60.0
LOWEST_PORT, PORTS = 12_000, 20_000


def name_of(folder: Path) -> str:
    """The name of the database or bucket that belongs to ``folder``, on a server that tests share."""
    return "t" + hashlib.sha256(str(folder).encode()).hexdigest()[:16]


def _own_ports() -> Iterator[int]:
    """Ports that no other process of this test run takes, again and again.

    They lie below those that the kernel hands out, so that no connection is on one before it is listened on.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    own = range(LOWEST_PORT + worker, LOWEST_PORT + PORTS, workers)
    return islice(cycle(own), os.getpid() % len(own), None)  # two test runs on one machine begin apart


_PORTS = _own_ports()


def free_port() -> int:
    """A TCP port of loopback that nothing listens on now, and that is not given twice for long."""
    for port in _PORTS:
        with suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("there is no end of ports")


def free_ports(count: int) -> list[int]:
    """As many of them."""
    return [free_port() for _ in range(count)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Consortium:
    """A CA and the folders of the identities it issued."""

    folder: Path

    def identity(self, name: str, role: Role, life: timedelta = timedelta(hours=1)) -> Path:
        """The folder of an identity, issued at the first call."""
        out = self.folder / "identities" / f"{name}-{role}"
        if not out.exists():
            hosts = ["localhost", "127.0.0.1"] if role is Role.COORDINATOR else []
            issue(self.folder / "ca", name, role, out, hosts=hosts, lifetime=life)
        return out


def make_consortium(folder: Path, name: str = "demo") -> Consortium:
    """A consortium with a CA of its own, or with the one that is there."""
    if not (folder / "ca").exists():
        create_ca(folder / "ca", name)
    return Consortium(folder=folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningCoordinator:
    """A coordinator process that serves."""

    consortium: Consortium
    process: subprocess.Popen[bytes]
    port: int
    metrics_port: int
    state: Path
    log: Path

    @property
    def address(self) -> str:
        """What agents dial."""
        return f"localhost:{self.port}"

    def channel(self, identity: Path) -> grpc.Channel:
        """A synchronous channel with that identity; the caller closes it."""
        return grpc.secure_channel(self.address, channel_credentials(load_identity(identity)), options=CHANNEL_OPTIONS)


@contextmanager
def running_coordinator(
    consortium: Consortium, poll_hold: str = "2s", stream_progress_deadline: str = "60s"
) -> Iterator[RunningCoordinator]:
    """Start ``fedmed-coordinator serve`` on free ports; stopped by pid at the end."""
    port, metrics_port = free_port(), free_port()
    folder = consortium.folder
    config = folder / "coordinator.toml"
    identity = consortium.identity("coordinator", Role.COORDINATOR)
    config.write_text(
        f'[coordinator]\nlisten = "127.0.0.1:{port}"\nstate_folder = "{folder / "state"}"\npoll_hold = "{poll_hold}"\n'
        f'stream_progress_deadline = "{stream_progress_deadline}"\n'
        f'[identity]\nfolder = "{identity}"\n[metrics]\nlisten = "127.0.0.1:{metrics_port}"\n',
        encoding="utf-8",
    )
    log = folder / "coordinator.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "coordinator", "serve", "--config", str(config)], stdout=output, stderr=output
        )
    try:
        _wait_until_listening(process, port, log)
        yield RunningCoordinator(
            consortium=consortium,
            process=process,
            port=port,
            metrics_port=metrics_port,
            state=folder / "state",
            log=log,
        )
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)


def _wait_until_listening(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    ends_at = time.monotonic() + START_SECONDS
    while time.monotonic() < ends_at:
        if process.poll() is not None:
            raise AssertionError(f"the coordinator ended with {process.returncode}: {log.read_text()}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"the coordinator does not listen after {START_SECONDS} s: {log.read_text()}")


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    """Ask again and again until ``holds`` says yes; fail after ``seconds``."""
    ends_at = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends_at, f"it does not hold after {seconds} s"
        time.sleep(0.02)

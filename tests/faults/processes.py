"""A federation of real processes that a test kills and starts again, and what its run leaves on the disk."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

from benchmarks.federation import prepare
from common.errors import FedMedError
from common.ids import digest_of
from common.peft_folder import WEIGHTS_FILE
from common.terms import BaseModelTerms, GateMetric, GateTerms, LoraTerms, RoundTerms, Terms
from coordinator.adapters.rpc.operator_client import OperatorClient, connect
from demo.federation import addresses_of
from demo.prepare import Prepared
from fedmedlora.v1 import admin_pb2
from site_agent.adapters import leash
from tests.faults.proxy import Link, Proxy
from tests.faults.steps import COORDINATOR, Step
from tests.faults.wire import NEAR
from tests.running import free_ports

ROOT = Path(__file__).parents[2]
SITES = ("site-1", "site-2")
POLL_SECONDS = 0.005
# So long after the last line of any log, the coordinator is asked where the run stands.
SILENCE_SECONDS = 20.0
# What is started dies with this process, however that ends.
LEASHED = (sys.executable, "-S", "-E", leash.__file__, str(os.getpid()))
# A run that does not come to its end in so long hangs.
HANG_SECONDS = 600.0


def make_terms(rounds: int, lora_rank: int = 1, sites: Sequence[str] = SITES) -> Terms:
    """A small adapter (0.63 MB at rank 1); every site is needed in each round, so that it can end in one way only."""
    digest = digest_of(b"no base model")
    base_model = BaseModelTerms(
        name="none", weights_digest=digest, tokenizer_digest=digest, chat_template_digest=digest
    )
    return Terms(
        name="faults",
        base_model=base_model,
        lora=LoraTerms(lora_rank=lora_rank, lora_alpha=2),
        rounds=RoundTerms(count=rounds, quorum=len(sites), sites=tuple(sites)),
        gate=GateTerms(metric=GateMetric.LOSS),
    )


@dataclass(slots=True)
class Log:
    """What a process says, over all its lives."""

    path: Path
    read_to: int = 0
    lines: list[dict[str, Any]] = field(default_factory=list)

    def new_lines(self) -> list[dict[str, Any]]:
        """The whole lines since the last call."""
        with self.path.open("rb") as file:
            file.seek(self.read_to)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self.read_to += len(whole)
        new = [json.loads(line) for line in whole.splitlines() if line.startswith(b"{")]
        self.lines += new
        return new


class Federation:
    """A coordinator, sites and an evaluator as processes on loopback.

    Agents dial over ``link``, if there is one; sites over the wire (`tests/faults/wire.py`), if they are in a namespace
    of their own at its far end. ``settings`` are more of the coordinator's, each ``key`` or ``section.key``.
    """

    def __init__(
        self,
        folder: Path,
        terms: Terms,
        link: Link | None = None,
        far_namespace: str = "",
        settings: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.folder = folder
        trainer = [sys.executable, "-m", "tests.faults.counting_trainer", "smollm2-135m"]
        self._sites = terms.rounds.sites
        addresses = addresses_of(free_ports(len(self._sites) + 4))
        self._address = addresses.coordinator
        self.proxy = None if link is None else Proxy(int(self._address.rpartition(":")[2]), link)
        if self.proxy is not None:
            addresses = replace(addresses, coordinator=f"localhost:{self.proxy.port}")
        if far_namespace:
            port = self._address.rpartition(":")[2]
            addresses = replace(addresses, coordinator=f"{NEAR}:{port}", coordinator_listen=f"0.0.0.0:{port}")
        self._far = ("ip", "netns", "exec", far_namespace) if far_namespace else ()
        self.prepared: Prepared = prepare(folder, terms, addresses, trainer)
        config = self.prepared.coordinator_config
        config.write_text(_with_settings(config.read_text(), settings))
        self.arguments: Mapping[str, Sequence[str]] = {
            COORDINATOR: ("coordinator", "serve", "--config", str(self.prepared.coordinator_config)),
            **{
                name: ("site_agent", "run", "--config", str(config))
                for name, config in self.prepared.agent_configs.items()
            },
        }
        self.logs = {name: Log(folder / f"{name}.log") for name in self.arguments}
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._stopped_until: dict[str, float] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        """Start every process."""
        if self.proxy is not None:
            self._stack.enter_context(self.proxy)
        for name in self.arguments:
            self.start(name)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End every process."""
        for process in self.processes.values():
            process.kill()
            process.wait()
        self._stack.close()

    def create_run(self) -> None:
        """Create the run as an operator does: again, if no answer comes."""
        ends_at = time.monotonic() + HANG_SECONDS
        while time.monotonic() < ends_at:
            with suppress(FedMedError):
                return asyncio.run(self._create())
            time.sleep(0.1)
        raise AssertionError(f"the run cannot be created; the logs are in {self.folder}")

    def _has_completed(self) -> bool:
        with suppress(FedMedError):
            return asyncio.run(self._state()) == admin_pb2.RUN_STATE_COMPLETED
        return False

    def operator(self) -> AbstractAsyncContextManager[OperatorClient]:
        """The coordinator, as an operator sees it."""
        return connect(self._address, self.prepared.operator_identity)

    async def _state(self) -> int:
        async with self.operator() as client:
            return (await client.get_run(self.prepared.terms.name)).summary.state

    async def _create(self) -> None:
        async with self.operator() as client:
            await client.create_run(self.prepared.terms)

    def start(self, name: str) -> None:
        """Start a process, or start it again; an operator does no more than that."""
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'proto'}"}
        command = [*LEASHED, sys.executable, "-m", *self.arguments[name]]
        if name in self._sites:
            command = [*self._far, *command]
        with self.logs[name].path.open("ab") as output:
            self.processes[name] = subprocess.Popen(command, stdout=output, stderr=output, env=environment)

    def kill(self, name: str) -> None:
        """SIGKILL, and start it again at once."""
        self.kill_for_good(name)
        self.start(name)

    def lose_disk(self) -> None:
        """SIGKILL the coordinator, and start it again on a machine that has nothing of what it kept."""
        self.kill_for_good(COORDINATOR)
        shutil.rmtree(self.prepared.state)
        self.start(COORDINATOR)

    def kill_for_good(self, name: str) -> None:
        """SIGKILL; it is not missed."""
        process = self.processes.pop(name)
        self._stopped_until.pop(name, None)
        process.kill()
        process.wait()

    def stop(self, name: str, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so long."""
        self.processes[name].send_signal(signal.SIGSTOP)
        self._stopped_until[name] = time.monotonic() + seconds

    def go_on(self, name: str) -> None:
        """SIGCONT, if it is stopped."""
        if self._stopped_until.pop(name, None) is not None:
            self.processes[name].send_signal(signal.SIGCONT)

    def _wake(self) -> None:
        for name, until in list(self._stopped_until.items()):
            if time.monotonic() > until:
                self.go_on(name)

    def follow(self, meanwhile: Callable[[], None] = lambda: None) -> Iterator[tuple[str, dict[str, Any]]]:
        """What every process says, as it says it, until the run has ended; ``meanwhile`` is called all the time."""
        ends_at = time.monotonic() + HANG_SECONDS
        asks_at = time.monotonic() + SILENCE_SECONDS
        while time.monotonic() < ends_at:
            for name, log in self.logs.items():
                for line in log.new_lines():
                    asks_at = time.monotonic() + SILENCE_SECONDS
                    yield name, line
                    if line["event"] == "run_state" and line["run_state"] in ("completed", "failed", "aborted"):
                        assert line["run_state"] == "completed", f"the run {line['run_state']}: {line.get('reason')}"
                        return
            meanwhile()
            self._wake()
            for name, process in self.processes.items():
                assert process.poll() is None, f"{name} ended by itself, with {process.returncode}: {self.folder}"
            # It may have died between the end of the run and the line that says so. Asking a stopped one would hold up
            # that it goes on.
            if time.monotonic() > asks_at and COORDINATOR not in self._stopped_until:
                if self._has_completed():
                    return
                asks_at = time.monotonic() + SILENCE_SECONDS
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"the run hangs; its logs are in {self.folder}")

    def run(self, meanwhile: Callable[[], None] = lambda: None) -> dict[str, str]:
        """Create the run and follow it to its end; what it has published."""
        self.create_run()
        for _ in self.follow(meanwhile):
            pass
        return self.published()

    def published(self) -> dict[str, str]:
        """The digest of every published adapter, by version."""
        registry = self.prepared.state / "registry" / self.prepared.terms.name
        files = sorted(registry.glob(f"v*/{WEIGHTS_FILE}"))
        return {path.parent.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    def events(self, name: str) -> set[str]:
        """What a process has told of so far."""
        self.logs[name].new_lines()
        return {line["event"] for line in self.logs[name].lines}

    def done_twice(self) -> list[str]:
        """Assignments that a trainer began after one had ended them."""
        again = []
        for notes in (self.folder / "agents").glob("*/state/trainer_notes"):
            ended: set[str] = set()
            for what, assignment_id in (line.split() for line in notes.read_text().splitlines()):
                again += [assignment_id] * (what == "began" and assignment_id in ended)
                ended |= {assignment_id} if what == "ended" else set()
        return again


def _with_settings(config: str, settings: Mapping[str, str]) -> str:
    for name, value in settings.items():
        section, _, key = name.rpartition(".")
        heading = f"[{section or 'coordinator'}]\n"
        config = config if heading in config else f"{config}\n{heading}"
        config = config.replace(heading, f"{heading}{key} = {json.dumps(value)}\n")
    return config


def is_step(step: Step, process: str, line: Mapping[str, Any]) -> bool:
    """Whether the line, of ``process``, is the step."""
    return (
        step.process == process
        and line["event"] == step.event
        and all(line.get(name) == value for name, value in step.fields.items())
    )

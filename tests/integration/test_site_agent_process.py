"""The agent as a process of its own, started, killed and asked by its commands."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import sys
import urllib.request
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from common.ids import digest_of
from common.peft_folder import CONFIG_FILE, WEIGHTS_FILE
from common.tls import Identity, Role, load_identity
from common.weights_io import write_weights
from common.wire import spec_to_proto, terms_to_proto
from fedmedlora.v1 import registry_pb2
from site_agent.adapters.state_lock import exclusive
from site_agent.adapters.trainer_process import trainer_environment
from tests.fakes.coordinator import CoordinatorState, file_ref, make_offer, serving, train_work
from tests.fakes.site import has_ended, trainer_command, until, wait_for_file
from tests.fakes.site_policies import write_policy
from tests.fakes.site_values import make_spec, make_terms
from tests.fakes.tiny_trainer import PID_FILE
from tests.running import Consortium, free_port, make_consortium


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return make_consortium(tmp_path_factory.mktemp("consortium"))


@pytest.fixture
def identity(consortium: Consortium) -> Identity:
    return load_identity(consortium.identity("coordinator", Role.COORDINATOR))


def write_config(
    folder: Path, consortium: Consortium, port: int, metrics_port: int, fault: str = "none", role: Role = Role.SITE
) -> Path:
    """A whole configuration of a site whose trainer is the tiny one."""
    config = folder / "site.toml"
    write_policy(folder / "policy.toml", make_terms())
    config.write_text(
        f'coordinator.address = "localhost:{port}"\n'
        f'identity.folder = "{consortium.identity("anna", role)}"\n'
        f'site.state_folder = "state"\nbase_model.location = "./model"\ndata.train = ["train.jsonl"]\n'
        f'policy.file = "policy.toml"\nmetrics.listen = "127.0.0.1:{metrics_port}"\n'
        f"trainer.command = {json.dumps(trainer_command(fault))}\n"
    )
    return config


async def start(*arguments: str) -> Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "site_agent", *arguments, stdout=PIPE, stderr=PIPE, stdin=asyncio.subprocess.DEVNULL
    )


async def finish(*arguments: str) -> tuple[int, str, str]:
    """Exit code, output and error output of a command."""
    process = await start(*arguments)
    async with asyncio.timeout(60):
        out, error = await process.communicate()
    return process.returncode or 0, out.decode(), error.decode()


@contextlib.asynccontextmanager
async def running(config: Path) -> AsyncIterator[Process]:
    process = await start("run", "--config", str(config))
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            await process.communicate()


def offer_of(state: CoordinatorState, folder: Path) -> tuple[str, bytes]:
    """Put one TRAIN assignment at the coordinator; returns its id and the adapter's file."""
    spec = make_spec()
    path = folder / "global.safetensors"
    write_weights(path, {tensor.name: np.ones(tensor.shape, np.float32) for tensor in spec.tensors}, spec.dtype)
    content = path.read_bytes()
    state.files[digest_of(content)] = content
    offer = make_offer(1, make_terms(), train=train_work(spec, content))
    state.offers[offer.assignment_id] = offer
    return offer.assignment_id, content


async def test_a_killed_agent_leaves_no_trainer_and_the_next_one_finishes(
    tmp_path: Path, consortium: Consortium, identity: Identity
) -> None:
    state = CoordinatorState()
    assignment_id, _ = offer_of(state, tmp_path)
    async with serving(state, identity) as port:
        config = write_config(tmp_path, consortium, port, free_port(), fault="hang_once")
        async with running(config) as agent:
            trainer_pid = int(await wait_for_file(tmp_path / "state" / PID_FILE))
            agent.kill()
            await agent.wait()
            await until(lambda: has_ended(trainer_pid))
        assert not state.accepted, "the first agent had not finished"
        async with running(config):
            await state.until(lambda: state.accepted)
    assert list(state.accepted) == [assignment_id]
    assert state.upload_starts == [0]


async def test_sigterm_ends_the_agent_with_exit_code_0_and_its_trainer_too(
    tmp_path: Path, consortium: Consortium, identity: Identity
) -> None:
    state = CoordinatorState()
    offer_of(state, tmp_path)
    async with serving(state, identity) as port:
        config = write_config(tmp_path, consortium, port, free_port(), fault="hang")
        async with running(config) as agent:
            trainer_pid = int(await wait_for_file(tmp_path / "state" / PID_FILE))
            os.kill(agent.pid, signal.SIGTERM)
        assert agent.returncode == 0
        assert has_ended(trainer_pid)


async def test_the_trainer_inherits_no_setting_that_is_not_on_the_list(
    tmp_path: Path, consortium: Consortium, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SITE_KEY_PASSWORD", "secret")
    state = CoordinatorState()
    offer_of(state, tmp_path)
    async with serving(state, identity) as port:
        config = write_config(tmp_path, consortium, port, free_port(), fault="hang")
        async with running(config):
            trainer_pid = await wait_for_file(tmp_path / "state" / PID_FILE)
            environment = (await asyncio.to_thread(Path(f"/proc/{trainer_pid}/environ").read_bytes)).split(b"\0")
    assert not any(line.startswith(b"SITE_KEY_PASSWORD=") for line in environment)
    assert b"HF_HUB_OFFLINE=1" in environment


def test_the_trainer_inherits_where_devices_and_caches_are() -> None:
    settings = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "HF_HUB_CACHE": "/models", "XDG_CACHE_HOME": "/cache"}
    assert settings.items() <= trainer_environment(settings, threads=0).items()


async def test_the_metrics_tell_what_travelled(tmp_path: Path, consortium: Consortium, identity: Identity) -> None:
    state = CoordinatorState()
    assignment_id, content = offer_of(state, tmp_path)
    metrics_port = free_port()
    async with serving(state, identity) as port, running(write_config(tmp_path, consortium, port, metrics_port)):
        await state.until(lambda: assignment_id in state.accepted and state.polls[-1] == "")
        url = f"http://127.0.0.1:{metrics_port}/metrics"
        scraped = (await asyncio.to_thread(urllib.request.urlopen, url)).read().decode()
    sample = re.compile(r'^fedmed_agent_received_bytes_total\{rpc="DownloadAdapter"\} (\S+)$', re.M)
    match = sample.search(scraped)
    assert match is not None
    assert len(content) < float(match[1]) < len(content) + 500
    assert 'fedmed_agent_assignments_total{kind="train",outcome="done"} 1.0' in scraped
    assert "fedmed_agent_connected 1.0" in scraped


async def test_health_says_whether_the_agent_runs_and_reaches_the_coordinator(
    tmp_path: Path, consortium: Consortium, identity: Identity
) -> None:
    state = CoordinatorState()
    async with serving(state, identity) as port:
        config = write_config(tmp_path, consortium, port, free_port())
        code, _, error = await finish("health", "--config", str(config))
        assert (code, error.startswith("no agent works in")) == (1, True)
        async with running(config):
            await state.until(lambda: state.polls)
            assert await finish("health", "--config", str(config)) == (0, "healthy\n", "")


async def test_health_says_so_when_the_coordinator_does_not_answer(tmp_path: Path, consortium: Consortium) -> None:
    config = write_config(tmp_path, consortium, free_port(), free_port())
    with exclusive(tmp_path / "state"):
        code, _, error = await finish("health", "--config", str(config))
    assert (code, "does not answer" in error) == (1, True)


async def test_a_second_agent_in_the_same_folder_is_refused_in_one_line(
    tmp_path: Path, consortium: Consortium, identity: Identity
) -> None:
    state = CoordinatorState()
    async with serving(state, identity) as port:
        config = write_config(tmp_path, consortium, port, free_port())
        async with running(config):
            await state.until(lambda: state.polls)
            code, _, error = await finish("run", "--config", str(config))
    assert (code, error.count("\n"), error.startswith("STORE_IN_USE")) == (1, 1, True)


async def test_a_certificate_of_the_wrong_role_is_refused_in_one_line(tmp_path: Path, consortium: Consortium) -> None:
    config = write_config(tmp_path, consortium, free_port(), free_port(), role=Role.OPERATOR)
    code, _, error = await finish("run", "--config", str(config))
    assert (code, error.count("\n"), "expected a certificate of a site or an evaluator" in error) == (2, 1, True)


async def test_an_expired_certificate_is_refused_in_one_line(tmp_path: Path) -> None:
    late = make_consortium(tmp_path / "late")
    late.identity("anna", Role.SITE, life=timedelta(seconds=-1))
    code, _, error = await finish("run", "--config", str(write_config(tmp_path, late, free_port(), free_port())))
    assert (code, error.count("\n"), error.startswith("CERTIFICATE_INVALID")) == (1, 1, True)


async def test_a_command_that_reads_notes_is_the_process_that_was_started(tmp_path: Path) -> None:
    pipe = tmp_path / "notes.jsonl"
    os.mkfifo(pipe)  # who reads it waits
    process = await start("data", "check", str(pipe))
    command = Path(f"/proc/{process.pid}/cmdline")
    await until(lambda: b"site_agent.trainer.check_notes" in command.read_bytes())
    process.send_signal(signal.SIGTERM)
    await process.communicate()
    assert process.returncode == -signal.SIGTERM


async def test_adapter_fetch_brings_the_last_promoted_version_as_a_peft_folder(
    tmp_path: Path, consortium: Consortium, identity: Identity
) -> None:
    state = CoordinatorState()
    _, content = offer_of(state, tmp_path)
    spec = make_spec()
    promoted = registry_pb2.AdapterVersion(version=1, adapter=file_ref(spec, content), is_promoted=True)
    rejected = registry_pb2.AdapterVersion(version=2, adapter=file_ref(spec, b"other"), is_promoted=False)
    state.versions = registry_pb2.ListAdapterVersionsResponse(
        versions=[promoted, rejected], terms=terms_to_proto(make_terms()), spec=spec_to_proto(spec)
    )
    out = tmp_path / "adapter"
    async with serving(state, identity) as port:
        config = write_config(tmp_path, consortium, port, free_port())
        code, said, _ = await finish("adapter", "fetch", "trial", "--out", str(out), "--config", str(config))
    assert (code, "version 1" in said) == (0, True)
    assert (out / WEIGHTS_FILE).read_bytes() == content
    assert json.loads((out / CONFIG_FILE).read_text())["base_model_name_or_path"] == "tiny"


async def test_adapter_fetch_of_a_run_without_a_promoted_version_says_so(
    tmp_path: Path, consortium: Consortium, identity: Identity
) -> None:
    state = CoordinatorState()
    state.versions = registry_pb2.ListAdapterVersionsResponse(terms=terms_to_proto(make_terms()))
    async with serving(state, identity) as port:
        config = write_config(tmp_path, consortium, port, free_port())
        arguments = ("adapter", "fetch", "trial", "--out", str(tmp_path / "adapter"), "--config", str(config))
        code, _, error = await finish(*arguments)
    assert (code, error) == (1, "ADAPTER_UNKNOWN: run trial has promoted no adapter yet\n")

"""The doctor, with each thing that can be wrong really wrong: real sockets, certificates and child processes."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from common.tls import CERTIFICATE_FILE, KEY_FILE, TRUST_BUNDLE_FILE, Role, load_identity
from site_agent.adapters import link_probe, machine_checks
from site_agent.app.doctor import (
    Check,
    CheckState,
    judge_disk,
    judge_expiry,
    judge_skew,
)
from site_agent.domain.memory_estimate import MemoryNeed
from tests.fakes.coordinator import CoordinatorState, serving
from tests.running import Consortium, free_port, make_consortium
from tests.tiny_model import make_tiny_model

NOW = datetime(2026, 11, 27, tzinfo=UTC)
GIB = 2**30
RECORD = '{"id": "p1", "text": "On aspirin.", "entities": []}\n'


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return make_consortium(tmp_path_factory.mktemp("consortium"))


@contextmanager
def listening(identity: Path) -> Iterator[int]:
    """Whoever connects is shown this identity's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity / CERTIFICATE_FILE, identity / KEY_FILE)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            try:
                while True:
                    peer, _ = server.accept()
                    with peer, context.wrap_socket(peer, server_side=True) as secured:
                        secured.recv(1)
            except OSError:
                return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def tls_of(port: int, mine: Path, name: str = "localhost", now: datetime | None = None) -> Check:
    reached, opened = link_probe.connect(f"127.0.0.1:{port}", "")
    assert opened is not None, reached
    trusted = (mine / TRUST_BUNDLE_FILE).read_bytes()
    return link_probe.check_tls(opened, mine, trusted, name, now or datetime.now(UTC))


def test_the_coordinators_certificate_is_found_good(consortium: Consortium) -> None:
    with listening(consortium.identity("coordinator", Role.COORDINATOR)) as port:
        check = tls_of(port, consortium.identity("anna", Role.SITE))
    assert check.state is CheckState.OK and "TLSv1.3" in check.detail


def test_a_certificate_of_another_issuer_names_it_and_says_that_something_opens_tls(
    consortium: Consortium, tmp_path: Path
) -> None:
    inspector = make_consortium(tmp_path, "clinic-proxy")
    with listening(inspector.identity("coordinator", Role.COORDINATOR)) as port:
        check = tls_of(port, consortium.identity("anna", Role.SITE))
    assert check.state is CheckState.FAILED
    assert "clinic-proxy" in check.detail and "without inspection" in check.remedy


def test_a_ca_of_the_same_name_is_told_from_an_inspecting_proxy(consortium: Consortium, tmp_path: Path) -> None:
    with listening(make_consortium(tmp_path).identity("coordinator", Role.COORDINATOR)) as port:
        check = tls_of(port, consortium.identity("anna", Role.SITE))
    assert check.state is CheckState.FAILED and "another key's" in check.detail
    assert "trust bundle" in check.remedy


def test_an_expired_certificate_of_the_coordinator_is_told_with_its_times(consortium: Consortium) -> None:
    with listening(consortium.identity("old", Role.COORDINATOR, life=timedelta(seconds=-1))) as port:
        check = tls_of(port, consortium.identity("anna", Role.SITE))
    assert check.state is CheckState.FAILED and "valid now" in check.detail


def test_a_certificate_for_another_host_names_the_hosts_it_is_for(consortium: Consortium) -> None:
    with listening(consortium.identity("coordinator", Role.COORDINATOR)) as port:
        check = tls_of(port, consortium.identity("anna", Role.SITE), name="coordinator.example")
    assert check.state is CheckState.FAILED
    assert "for coordinator.example, got one for localhost" in check.detail and "server_name" in check.remedy


def test_what_answers_without_tls_is_no_coordinator(consortium: Consortium) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=lambda: server.accept()[0].sendall(b"SSH-2.0-x\r\n"), daemon=True).start()
        check = tls_of(server.getsockname()[1], consortium.identity("anna", Role.SITE))
    assert check.state is CheckState.FAILED and "expected a TLS handshake" in check.detail


def test_a_closed_port_is_told_with_its_address() -> None:
    address = f"127.0.0.1:{free_port()}"
    check, opened = link_probe.connect(address, "")
    assert opened is None and check.state is CheckState.FAILED
    assert address in check.detail and "refused" in check.detail


def test_a_name_that_does_not_exist_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    check = link_probe.check_name("no-such-host.invalid")
    assert check.state is CheckState.FAILED and "no-such-host.invalid" in check.detail
    assert link_probe.check_name("localhost").state is CheckState.OK


@contextmanager
def proxying(answer: str = "200 Connection established") -> Iterator[tuple[str, list[str]]]:
    """A proxy for HTTP CONNECT, and what it was asked."""
    asked: list[str] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while content := source.recv(65536):
                target.sendall(content)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            return

    def serve(peer: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += peer.recv(4096)
        asked.append(request.split(b"\r\n")[0].decode())
        peer.sendall(f"HTTP/1.1 {answer}\r\n\r\n".encode())
        if answer.startswith("200"):
            host, _, port = asked[-1].split()[1].rpartition(":")
            there = socket.create_connection((host, int(port)), 10)
            there.settimeout(None)
            threading.Thread(target=pump, args=(there, peer), daemon=True).start()
            pump(peer, there)
        else:
            peer.close()

    def accept(server: socket.socket) -> None:
        try:
            while True:
                threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
        except OSError:
            return

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, args=(server,), daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", asked
        server.shutdown(socket.SHUT_RDWR)


def test_a_connection_goes_through_a_proxy_by_connect_and_the_certificate_behind_it_is_seen(
    consortium: Consortium,
) -> None:
    mine = consortium.identity("anna", Role.SITE)
    with listening(consortium.identity("coordinator", Role.COORDINATOR)) as port, proxying() as (proxy, asked):
        reached, opened = link_probe.connect(f"localhost:{port}", proxy)
        assert opened is not None and reached.state is CheckState.OK
        trusted = (mine / TRUST_BUNDLE_FILE).read_bytes()
        assert link_probe.check_tls(opened, mine, trusted, "localhost", datetime.now(UTC)).state is CheckState.OK
    assert asked == [f"CONNECT localhost:{port} HTTP/1.1"]


def test_a_proxy_that_says_no_is_quoted() -> None:
    with proxying("403 Forbidden") as (proxy, _):
        check, opened = link_probe.connect("coordinator.example:8443", proxy)
    assert opened is None and "403 Forbidden" in check.detail and "CONNECT" in check.remedy


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, ""),
        ({"https_proxy": "http://p:1"}, "http://p:1"),
        ({"https_proxy": "http://p:1", "grpc_proxy": "http://q:1"}, "http://q:1"),
        ({"https_proxy": "http://p:1", "no_proxy": "other, c.example"}, ""),
        ({"https_proxy": "http://p:1", "no_proxy": ".example"}, ""),
        ({"https_proxy": "http://p:1", "no_proxy": "ample"}, "http://p:1"),
    ],
)
def test_the_proxy_is_the_one_that_grpc_would_take(environment: dict[str, str], expected: str) -> None:
    assert link_probe.proxy_for("c.example", environment) == expected


@pytest.mark.parametrize(
    ("ahead_seconds", "state"),
    [(0, CheckState.OK), (59, CheckState.OK), (70, CheckState.FAILED), (-70, CheckState.FAILED)],
)
def test_a_clock_that_is_off_by_more_than_a_minute_is_told(ahead_seconds: float, state: CheckState) -> None:
    check = judge_skew(NOW, NOW - timedelta(seconds=ahead_seconds), NOW)
    assert check.state is state
    assert ("ahead of" in check.detail) == (ahead_seconds > 0)


def test_a_slow_answer_is_no_skew() -> None:
    assert judge_skew(NOW, NOW + timedelta(seconds=150), NOW + timedelta(seconds=200)).state is CheckState.OK


def test_a_disk_with_little_room_is_told(tmp_path: Path) -> None:
    assert judge_disk(GIB, "/x").state is CheckState.FAILED
    assert machine_checks.check_disk(tmp_path / "not" / "yet", lambda _folder: 3 * GIB).state is CheckState.OK
    assert machine_checks.check_disk(tmp_path, lambda _folder: 1).remedy != ""


@pytest.mark.parametrize("days", [7, 90])
def test_a_certificate_is_told_of_when_less_than_a_quarter_of_its_life_is_left(days: int) -> None:
    life = timedelta(days=days)
    for share_left, is_told in [(1.0, False), (0.26, False), (0.24, True)]:
        expires_at = NOW + life * share_left
        assert ("in time" in judge_expiry(expires_at - life, expires_at, NOW, "x").remedy) == is_told
    assert judge_expiry(NOW - 2 * life, NOW - life, NOW, "x").state is CheckState.FAILED


class _Nvml:
    """NVIDIA's binding over one GPU of 24 GiB."""

    nvmlDeviceGetCount = staticmethod(lambda: 1)
    nvmlDeviceGetHandleByIndex = staticmethod(lambda index: index)
    nvmlDeviceGetMemoryInfo = staticmethod(lambda _handle: SimpleNamespace(total=24 * GIB))
    nvmlDeviceGetName = staticmethod(lambda _handle: "A GPU")
    nvmlSystemGetDriverVersion = staticmethod(lambda: "570.1")


def no_driver() -> _Nvml:
    raise LookupError("the NVIDIA driver does not answer")


def test_the_gpu_is_named_with_its_driver_and_its_memory_compared() -> None:
    found, memory = machine_checks.check_gpu("auto", MemoryNeed(by_rank=(30 * GIB,)), _Nvml)
    assert found.detail == "A GPU, driver 570.1" and memory.state is CheckState.FAILED
    assert machine_checks.check_gpu("cuda:0", MemoryNeed(by_rank=(10 * GIB,)), _Nvml)[1].state is CheckState.OK
    assert machine_checks.check_gpu("cuda:1", MemoryNeed(by_rank=(10 * GIB,)), _Nvml)[0].state is CheckState.FAILED


def test_a_gpu_that_is_asked_for_and_not_there_is_a_failure_and_else_no_matter() -> None:
    assert machine_checks.check_gpu("cuda", None, no_driver)[0].state is CheckState.FAILED
    assert machine_checks.check_gpu("auto", None, no_driver)[0].state is CheckState.SKIPPED
    assert machine_checks.check_gpu("cpu", None, no_driver)[0].state is CheckState.SKIPPED


def write_site(folder: Path, consortium: Consortium, port: int, more: str = "") -> Path:
    (folder / "notes.jsonl").write_text(RECORD)
    config = folder / "site.toml"
    config.write_text(
        f'coordinator.address = "localhost:{port}"\nidentity.folder = "{consortium.identity("anna", Role.SITE)}"\n'
        f'site.state_folder = "state"\nbase_model.location = "{make_tiny_model(folder / "tiny")}"\n'
        f'data.train = ["notes.jsonl"]\ntrainer.device = "cpu"\n{more}'
    )
    return config


async def doctor(config: Path, *more: str, **environment: str) -> tuple[int, dict[str, Check]]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "site_agent", "doctor", "--config", str(config), "--json", *more),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    said, _ = await asyncio.wait_for(process.communicate(), 120)
    checks = [Check(**{**check, "state": CheckState(check["state"])}) for check in json.loads(said)]
    assert process.returncode is not None
    return process.returncode, {check.name: check for check in checks}


async def test_a_site_that_lacks_nothing_is_found_well_through_a_proxy_too(
    consortium: Consortium, tmp_path: Path
) -> None:
    identity = load_identity(consortium.identity("coordinator", Role.COORDINATOR))
    async with serving(CoordinatorState(), identity) as port:
        config = write_site(tmp_path, consortium, port)
        with proxying() as (proxy, asked):
            code, checks = await doctor(config, https_proxy=proxy)
    assert [check for check in checks.values() if check.state is CheckState.FAILED] == []
    assert code == 0
    assert checks["data"].detail == "1 passages of 1 documents, 1 sentences"
    assert {name for name, check in checks.items() if check.state is CheckState.SKIPPED} == {
        "gpu",
        "gpu_memory",
        "terms",
    }
    assert asked == [f"CONNECT localhost:{port} HTTP/1.1"] * 2  # once to look, once by gRPC itself


async def test_a_site_with_a_wrong_clock_bad_records_and_another_base_model_is_told_all_of_it(
    consortium: Consortium, tmp_path: Path
) -> None:
    identity = load_identity(consortium.identity("coordinator", Role.COORDINATOR))
    async with serving(CoordinatorState(clock_ahead=timedelta(minutes=5)), identity) as port:
        more = f'base_model.weights_digest = "sha256:{"0" * 64}"\n'
        config = write_site(tmp_path, consortium, port, more)
        (tmp_path / "notes.jsonl").write_text(RECORD + '{"text": "Mrs Confidential"}\n')
        code, checks = await doctor(config)
    assert code == 1
    wrong = {name for name, check in checks.items() if check.state is CheckState.FAILED}
    assert wrong == {"clock", "data", "base_model"}
    assert all(checks[name].remedy for name in wrong)
    assert "notes.jsonl" in checks["data"].detail and "Confidential" not in str(checks)


async def test_a_coordinator_that_is_away_leaves_what_needs_it_skipped_and_the_rest_looked_at(
    consortium: Consortium, tmp_path: Path
) -> None:
    code, checks = await doctor(write_site(tmp_path, consortium, free_port()))
    assert code == 1
    assert checks["connection"].state is CheckState.FAILED
    assert [checks[name].state for name in ("tls", "coordinator", "clock")] == [CheckState.SKIPPED] * 3
    assert [checks[name].state for name in ("disk", "ledger", "data")] == [CheckState.OK] * 3


async def test_a_wrong_policy_is_one_failure_with_all_its_problems(consortium: Consortium, tmp_path: Path) -> None:
    config = write_site(tmp_path, consortium, 1, "policy.strategies = 5\npolicy.colour = 1\n")
    code, checks = await doctor(config)
    assert code == 1 and list(checks) == ["configuration"]
    assert "policy.colour" in checks["configuration"].detail and "policy.strategies" in checks["configuration"].detail


TERMS = """
name = "trial"
base_model.name = "tiny"
base_model.weights_digest = "{digest}"
base_model.tokenizer_digest = "{digest}"
base_model.chat_template_digest = "{digest}"
lora.target_modules = ["q_proj"]
aggregation.strategy = "{strategy}"
training.tokens_per_batch = 1_000_000
training.batch_size = 4096
"""


async def test_a_runs_terms_are_held_against_policy_base_model_and_memory(
    consortium: Consortium, tmp_path: Path
) -> None:
    identity = load_identity(consortium.identity("coordinator", Role.COORDINATOR))
    terms = tmp_path / "terms.toml"
    terms.write_text(TERMS.format(digest=f"sha256:{'0' * 64}", strategy="ffa_lora"))
    async with serving(CoordinatorState(), identity) as port:
        config = write_site(tmp_path, consortium, port, 'policy.strategies = ["fed_medlora"]\n')
        _, usual = await doctor(config)
        code, checks = await doctor(config, "--terms", str(terms))
    assert code == 1
    assert {name for name, check in checks.items() if check.state is CheckState.FAILED} == {"terms", "base_model"}
    assert "aggregation.strategy: expected one of fed_medlora, got ffa_lora" in checks["terms"].detail
    assert "declines" in checks["terms"].remedy
    assert checks["memory"].detail != usual["memory"].detail


async def test_a_terms_file_that_is_none_is_told_with_what_is_wrong(consortium: Consortium, tmp_path: Path) -> None:
    terms = tmp_path / "terms.toml"
    terms.write_text("lora.lora_rank = 0\n")
    code, checks = await doctor(write_site(tmp_path, consortium, free_port()), "--terms", str(terms))
    assert code == 1
    assert checks["terms"].state is CheckState.FAILED and "base_model: expected" in checks["terms"].detail

"""The agent's metrics: GPU gauges with a stand-in for NVIDIA's binding (no GPU here), and who may scrape them."""

from __future__ import annotations

import ssl
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from prometheus_client import CollectorRegistry

from common.metric_names import AGENT_METRICS
from common.tls import CERTIFICATE_FILE, KEY_FILE, TRUST_BUNDLE_FILE, Role
from site_agent.adapters.gpu_gauges import GpuGauges
from site_agent.adapters.metrics import AgentMetrics, MetricsTls, serve_metrics
from tests.running import free_port, make_consortium


class NvmlError(Exception):
    """What the binding raises."""


class StandInNvml:
    """NVIDIA's binding with two GPUs, of which the second does not tell its utilisation."""

    NVMLError = NvmlError

    def nvmlInit(self) -> None:
        """There is a driver."""

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetMemoryInfo(self, device: int) -> SimpleNamespace:
        return SimpleNamespace(used=10 + device, total=80)

    def nvmlDeviceGetUtilizationRates(self, device: int) -> SimpleNamespace:
        if device == 1:
            raise NvmlError("not supported")
        return SimpleNamespace(gpu=25)


class LostDriver(StandInNvml):
    """The binding after the driver was taken away."""

    def nvmlDeviceGetCount(self) -> int:
        raise NvmlError("driver not loaded")


class NoDriver(StandInNvml):
    """The binding on a machine without a driver."""

    def nvmlInit(self) -> None:
        raise NvmlError("driver not loaded")


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(GpuGauges())
    return registry


@pytest.fixture
def stop() -> Iterator[list[object]]:
    stops: list[object] = []
    yield stops
    for each in stops:
        assert callable(each)
        each()


def test_each_gpu_tells_what_it_can(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", StandInNvml())
    samples = {
        (sample.name, sample.labels["gpu"]): sample.value for family in registry.collect() for sample in family.samples
    }
    assert samples == {
        ("fedmed_agent_gpu_utilisation_ratio", "0"): 0.25,
        ("fedmed_agent_gpu_memory_bytes", "0"): 10,
        ("fedmed_agent_gpu_memory_bytes", "1"): 11,
        ("fedmed_agent_gpu_memory_limit_bytes", "0"): 80,
        ("fedmed_agent_gpu_memory_limit_bytes", "1"): 80,
    }


def test_without_a_gpu_there_is_no_gpu_metric(registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", NoDriver())
    assert list(registry.collect()) == []


def test_a_driver_that_goes_away_takes_no_other_metric_with_it(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", LostDriver())
    assert [family.samples for family in registry.collect()] == [[], [], []]


def test_without_the_binding_there_is_no_gpu_metric(
    registry: CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert list(registry.collect()) == []


def test_every_metric_of_the_agent_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", StandInNvml())
    families = {family.name for family in AgentMetrics(certificate_expires_at=0.0).registry.collect()}
    assert families == {metric.name.removesuffix("_total") for metric in AGENT_METRICS}


def test_with_a_client_ca_only_its_scrapers_are_served(tmp_path: Path, stop: list[object]) -> None:
    consortium = make_consortium(tmp_path)
    own, scraper = consortium.identity("metrics", Role.COORDINATOR), consortium.identity("anna", Role.SITE)
    ca = own / TRUST_BUNDLE_FILE
    port = free_port()
    tls = MetricsTls(certificate=own / CERTIFICATE_FILE, key=own / KEY_FILE, client_ca=ca)
    stop.append(serve_metrics(f"127.0.0.1:{port}", AgentMetrics(0.0).registry, tls))
    stranger = ssl.create_default_context(cafile=str(ca))
    known = ssl.create_default_context(cafile=str(ca))
    known.load_cert_chain(scraper / CERTIFICATE_FILE, scraper / KEY_FILE)
    url = f"https://localhost:{port}/metrics"
    assert b"fedmed_agent_connected" in urllib.request.urlopen(url, context=known).read()
    with pytest.raises((urllib.error.URLError, ssl.SSLError, ConnectionError)):
        urllib.request.urlopen(url, context=stranger)


def test_an_empty_address_serves_nothing() -> None:
    before = threading.active_count()
    stop_serving = serve_metrics("", CollectorRegistry(), tls=None)
    assert threading.active_count() == before
    stop_serving()

"""The agent's Prometheus metrics, in a registry of their own: its hospital's, not the consortium's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from common import metric_names as names
from common.errors import Reason
from site_agent.adapters.gpu_gauges import GpuGauges
from site_agent.app.ports import Entry
from site_agent.orders import Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsTls:
    """Files for HTTPS; with a client CA, only scrapers that it signed are served."""

    certificate: Path
    key: Path
    client_ca: Path | None = None


class AgentMetrics:
    """Counts: the `Observer` port, and the `Traffic` of the rpc client."""

    def __init__(self, certificate_expires_at: float) -> None:
        self.registry = CollectorRegistry()
        self._connected = self._gauge(names.AGENT_CONNECTED)
        self._assignments = self._counter(names.AGENT_ASSIGNMENTS_TOTAL)
        self._active = self._gauge(names.AGENT_ASSIGNMENT_ACTIVE)
        self._sent = self._counter(names.AGENT_SENT_BYTES_TOTAL)
        self._received = self._counter(names.AGENT_RECEIVED_BYTES_TOTAL)
        self._failures = self._counter(names.AGENT_RPC_FAILURES_TOTAL)
        self._loss = self._gauge(names.AGENT_TRAIN_LOSS)
        self._step = self._gauge(names.AGENT_TRAIN_STEP)
        self._steps = self._gauge(names.AGENT_TRAIN_STEPS)
        self._examples = self._counter(names.AGENT_TRAIN_EXAMPLES_TOTAL)
        self._tokens_per_second = self._gauge(names.AGENT_TOKENS_PER_SECOND)
        self._certificate = self._gauge(names.CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS)
        self._certificate.set(certificate_expires_at)
        self.registry.register(GpuGauges())

    def certificate_expires(self, at: float) -> None:
        """The agent goes by a certificate that expires at that Unix time."""
        self._certificate.set(at)

    def connection_changed(self, is_connected: bool) -> None:
        """See the port."""
        self._connected.set(is_connected)

    def assignment_moved(self, entry: Entry) -> None:
        """See the port."""
        kind, stage = entry.assignment.kind, entry.state.stage
        self._active.labels(kind).set(stage.is_open)
        if not stage.is_open:
            self._assignments.labels(kind, stage).inc()

    def trainer_progressed(self, progress: Progress) -> None:
        """See the port."""
        self._step.set(progress.step)
        self._steps.set(progress.steps)
        if progress.loss is not None:
            self._loss.set(progress.loss)
        if progress.tokens_per_second is not None:
            self._tokens_per_second.set(progress.tokens_per_second)

    def update_accepted(self, num_examples: int) -> None:
        """See the port."""
        self._examples.inc(num_examples)

    def sent(self, rpc: str, count: int) -> None:
        """So many bytes of protobuf payload went out."""
        self._sent.labels(rpc).inc(count)

    def received(self, rpc: str, count: int) -> None:
        """So many came in."""
        self._received.labels(rpc).inc(count)

    def failed(self, reason: Reason) -> None:
        """A call failed."""
        self._failures.labels(reason).inc()

    def _counter(self, metric: names.Metric) -> Counter:
        return Counter(metric.name, metric.help, metric.labels, registry=self.registry)

    def _gauge(self, metric: names.Metric) -> Gauge:
        return Gauge(metric.name, metric.help, metric.labels, registry=self.registry)


def serve_metrics(listen: str, registry: CollectorRegistry, tls: MetricsTls | None) -> Callable[[], None]:
    """Serve ``registry`` on ``listen`` (``host:port``; empty for nowhere); returns what stops it.

    Raises:
        OSError: The address cannot be bound, or a file of ``tls`` cannot be read.
    """
    if not listen:
        return lambda: None
    host, _, port = listen.rpartition(":")
    server, thread = start_http_server(int(port), host, registry, **_tls_options(tls))

    def stop() -> None:
        server.shutdown()
        server.server_close()
        if isinstance(thread, threading.Thread):
            thread.join()

    return stop


def _tls_options(tls: MetricsTls | None) -> dict[str, Any]:
    if tls is None:
        return {}
    options: dict[str, Any] = {"certfile": str(tls.certificate), "keyfile": str(tls.key)}
    if tls.client_ca is not None:
        options |= {"client_cafile": str(tls.client_ca), "client_auth_required": True}
    return options

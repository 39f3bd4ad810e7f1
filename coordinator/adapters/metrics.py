"""The coordinator's Prometheus metrics, in a registry of their own, served over HTTP. Decides nothing.

Counters are told of what happened; gauges are read off the runs when Prometheus asks, so that they cannot go stale.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, start_http_server
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common import metric_names as names
from common.errors import Reason
from coordinator.domain.holds import standing_holds
from coordinator.domain.values import Phase, Run, RunState, SiteOutcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What the gauges show: all runs, every known site with whether it is present, what expires when (Unix time)."""

    runs: tuple[Run, ...]
    presence: tuple[tuple[str, bool], ...]
    certificate_expires_at: float
    ca_expires_at: float | None = None
    members_expire_at: tuple[tuple[str, float], ...] = ()


class CoordinatorMetrics:
    """Counts; the registry is what is scraped."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._rounds = self._counter(names.ROUNDS_TOTAL)
        self._updates = self._counter(names.UPDATES_TOTAL)
        self._refusals = self._counter(names.REFUSALS_TOTAL)
        self._enrolment_refusals = self._counter(names.ENROLMENT_REFUSALS_TOTAL)
        self._rpcs = self._counter(names.RPCS_TOTAL)
        self._received_bytes = self._counter(names.RECEIVED_BYTES_TOTAL)
        self._sent_bytes = self._counter(names.SENT_BYTES_TOTAL)
        self._round_seconds = self._histogram(names.ROUND_DURATION_SECONDS)
        self._aggregation_seconds = self._histogram(names.AGGREGATION_SECONDS)

    def refused(self, reason: Reason) -> None:
        """A request was answered with ``reason``."""
        self._refusals.labels(reason).inc()

    def enrolment_refused(self, reason: Reason) -> None:
        """An attempt to enrol was answered with ``reason``."""
        self._enrolment_refusals.labels(reason).inc()

    def rpc_ended(self, rpc: str, code: str) -> None:
        """An rpc ended with a gRPC status."""
        self._rpcs.labels(_method(rpc), code).inc()

    def received(self, rpc: str, count: int) -> None:
        """So many bytes of payload came in."""
        self._received_bytes.labels(_method(rpc)).inc(count)

    def sent(self, rpc: str, count: int) -> None:
        """So many bytes of payload were handed to gRPC."""
        self._sent_bytes.labels(_method(rpc)).inc(count)

    def site_answered(self, outcome: SiteOutcome) -> None:
        """A site's part in a round was decided."""
        self._updates.labels(outcome).inc()

    def round_closed(self, phase: Phase, seconds: float) -> None:
        """A round ended."""
        self._rounds.labels(phase).inc()
        self._round_seconds.observe(seconds)

    def aggregated(self, seconds: float) -> None:
        """A candidate was made."""
        self._aggregation_seconds.observe(seconds)

    def show(self, snapshot: Callable[[], Snapshot]) -> None:
        """Read the gauges off ``snapshot`` at each scrape."""
        self.registry.register(_Gauges(snapshot))

    def _counter(self, metric: names.Metric) -> Counter:
        return Counter(metric.name, metric.help, metric.labels, registry=self.registry)

    def _histogram(self, metric: names.Metric) -> Histogram:
        return Histogram(metric.name, metric.help, buckets=metric.buckets, registry=self.registry)


def _method(rpc: str) -> str:
    """The last part of ``/package.Service/Method``; no two services here have one of the same name."""
    return rpc.rpartition("/")[2]


class _Gauges(Collector):
    """Implements prometheus_client's collector protocol."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        """All gauges, as things stand now."""
        now = self._snapshot()
        yield _runs_by_state(now.runs)
        yield _rounds(now.runs)
        yield _phases(now.runs)
        yield _held(now.runs)
        yield from _scores(now.runs)
        yield from _task_scores(now.runs)
        present = _family(names.SITE_PRESENT)
        for site, is_present in now.presence:
            present.add_metric([site], float(is_present))
        yield present
        expiry = _family(names.CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS)
        expiry.add_metric([], now.certificate_expires_at)
        yield expiry
        ca_expiry = _family(names.CA_EXPIRY_TIMESTAMP_SECONDS)
        if now.ca_expires_at is not None:
            ca_expiry.add_metric([], now.ca_expires_at)
        yield ca_expiry
        members = _family(names.SITE_CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS)
        for name, expires_at in now.members_expire_at:
            members.add_metric([name], expires_at)
        yield members


def _family(metric: names.Metric) -> GaugeMetricFamily:
    return GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)


def _runs_by_state(runs: tuple[Run, ...]) -> GaugeMetricFamily:
    family = _family(names.RUNS)
    for state in RunState:
        family.add_metric([state], sum(run.state is state for run in runs))
    return family


def _rounds(runs: tuple[Run, ...]) -> GaugeMetricFamily:
    family = _family(names.RUN_ROUND)
    for run in runs:
        family.add_metric([run.terms.name], len(run.rounds))
    return family


def _phases(runs: tuple[Run, ...]) -> GaugeMetricFamily:
    family = _family(names.ROUND_PHASE)
    for run in runs:
        for phase in Phase if run.rounds else ():
            family.add_metric([run.terms.name, phase], float(run.rounds[-1].phase is phase))
    return family


def _held(runs: tuple[Run, ...]) -> GaugeMetricFamily:
    family = _family(names.HELD_SINCE_TIMESTAMP_SECONDS)
    for run in runs:
        for hold, _ in standing_holds(run) if run.state.is_open else ():
            family.add_metric([run.terms.name, hold.agent, hold.reason], hold.since.timestamp())
    return family


def _scores(runs: tuple[Run, ...]) -> Iterable[GaugeMetricFamily]:
    loss, strict, lenient = (
        _family(metric)
        for metric in (names.CANDIDATE_LOSS, names.CANDIDATE_STRICT_F1_RATIO, names.CANDIDATE_LENIENT_F1_RATIO)
    )
    for run in runs:
        scored = [past.scores for past in run.rounds if past.scores is not None]
        for scores in scored[-1:]:
            loss.add_metric([run.terms.name], scores.mean_loss)
            for family, score in ((strict, scores.strict), (lenient, scores.lenient)):
                if score is not None:
                    family.add_metric([run.terms.name], score.value)
    return loss, strict, lenient


def _task_scores(runs: tuple[Run, ...]) -> Iterable[GaugeMetricFamily]:
    loss, strict, lenient = (
        _family(metric)
        for metric in (
            names.CANDIDATE_TASK_LOSS,
            names.CANDIDATE_TASK_STRICT_F1_RATIO,
            names.CANDIDATE_TASK_LENIENT_F1_RATIO,
        )
    )
    for run in runs:
        scored = [past.scores for past in run.rounds if past.scores is not None]
        for scores in (task for last in scored[-1:] for task in last.tasks):
            loss.add_metric([run.terms.name, scores.task], scores.mean_loss)
            for family, score in ((strict, scores.strict), (lenient, scores.lenient)):
                if score is not None:
                    family.add_metric([run.terms.name, scores.task], score.value)
    return loss, strict, lenient


def serve_metrics(listen: str, metrics: CoordinatorMetrics) -> Callable[[], None]:
    """Serve ``metrics`` on ``listen`` (``host:port``; empty for nowhere); returns what stops it.

    Raises:
        OSError: the address cannot be bound; it is in ``filename``.
    """
    if not listen:
        return lambda: None
    host, _, port = listen.rpartition(":")
    try:
        server, thread = start_http_server(int(port), host, metrics.registry)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"metrics.listen {listen}") from None

    def stop() -> None:
        server.shutdown()
        server.server_close()
        if isinstance(thread, threading.Thread):
            thread.join()

    return stop

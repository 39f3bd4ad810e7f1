"""Every metric of both services: name, meaning, type, labels. Counts nothing itself.

Names follow Prometheus' own rules (https://prometheus.io/docs/practices/naming): base units, ``_total`` on counters,
no type in a name. Label values are from closed sets or names of sites and runs; no metric carries text.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class MetricType(StrEnum):
    """What kind of series it is."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric.

    Attributes:
        buckets: Upper bounds of a histogram's buckets, in its unit; empty for the others.
    """

    name: str
    help: str
    type: MetricType
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


def _counter(name: str, help: str, *labels: str) -> Metric:
    return Metric(name=name, help=help, type=MetricType.COUNTER, labels=labels)


def _gauge(name: str, help: str, *labels: str) -> Metric:
    return Metric(name=name, help=help, type=MetricType.GAUGE, labels=labels)


def _histogram(name: str, help: str, buckets: tuple[float, ...]) -> Metric:
    return Metric(name=name, help=help, type=MetricType.HISTOGRAM, buckets=buckets)


# From a round of the demo to one that waits a month for a hospital.
_ROUND_SECONDS = (10.0, 60.0, 300.0, 1800.0, 3600.0, 14_400.0, 43_200.0, 86_400.0, 604_800.0, 2_592_000.0)
_SHORT_SECONDS = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 1800.0)

# The coordinator's.
RUNS = _gauge("fedmed_runs", "Runs by state.", "state")
ROUNDS_TOTAL = _counter("fedmed_rounds_total", "Rounds ended, by the phase they ended in.", "phase")
RUN_ROUND = _gauge("fedmed_run_round", "Number of a run's current round, counted from 1.", "run")
ROUND_PHASE = _gauge(
    "fedmed_round_phase", "1 for the phase in which a run's current round stands, else 0.", "run", "phase"
)
ROUND_DURATION_SECONDS = _histogram(
    "fedmed_round_duration_seconds", "Time from opening to end of a round.", _ROUND_SECONDS
)
AGGREGATION_SECONDS = _histogram(
    "fedmed_aggregation_seconds", "Time to combine the updates of a round.", _SHORT_SECONDS
)
UPDATES_TOTAL = _counter("fedmed_updates_total", "Answers of sites to TRAIN assignments, by outcome.", "outcome")
REFUSALS_TOTAL = _counter("fedmed_refusals_total", "Requests and updates refused, by reason.", "reason")
RPCS_TOTAL = _counter("fedmed_rpcs_total", "Calls ended, by rpc and gRPC status.", "rpc", "code")
RECEIVED_BYTES_TOTAL = _counter("fedmed_received_bytes_total", "Protobuf payload received, by rpc.", "rpc")
SENT_BYTES_TOTAL = _counter("fedmed_sent_bytes_total", "Protobuf payload sent, by rpc.", "rpc")
SITE_PRESENT = _gauge(
    "fedmed_site_present", "1 while a site or evaluator has its poll open, or had within poll_hold, else 0.", "site"
)
HELD_SINCE_TIMESTAMP_SECONDS = _gauge(
    "fedmed_held_since_timestamp_seconds",
    "Since when a site or evaluator may not go on with its assignment, as Unix time; absent while it may.",
    "run",
    "site",
    "reason",
)
CANDIDATE_STRICT_F1_RATIO = _gauge("fedmed_candidate_strict_f1_ratio", "Strict F1 of a run's last candidate.", "run")
CANDIDATE_LENIENT_F1_RATIO = _gauge("fedmed_candidate_lenient_f1_ratio", "Lenient F1 of a run's last candidate.", "run")
CANDIDATE_TASK_STRICT_F1_RATIO = _gauge(
    "fedmed_candidate_task_strict_f1_ratio", "Strict F1 of a run's last candidate in one task.", "run", "task"
)
CANDIDATE_TASK_LENIENT_F1_RATIO = _gauge(
    "fedmed_candidate_task_lenient_f1_ratio", "Lenient F1 of a run's last candidate in one task.", "run", "task"
)
CANDIDATE_TASK_LOSS = _gauge(
    "fedmed_candidate_task_loss",
    "Mean token cross-entropy of a run's last candidate in one task, in nats.",
    "run",
    "task",
)
CANDIDATE_LOSS = _gauge("fedmed_candidate_loss", "Mean token cross-entropy of a run's last candidate, in nats.", "run")
CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS = _gauge(
    "fedmed_certificate_expiry_timestamp_seconds", "When the process's own certificate expires, as Unix time."
)
SITE_CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS = _gauge(
    "fedmed_site_certificate_expiry_timestamp_seconds",
    "When the last certificate that the coordinator issued to a site expires, as Unix time.",
    "site",
)
CA_EXPIRY_TIMESTAMP_SECONDS = _gauge(
    "fedmed_ca_expiry_timestamp_seconds", "When the coordinator's issuing CA expires, as Unix time."
)
ENROLMENT_REFUSALS_TOTAL = _counter(
    "fedmed_enrolment_refusals_total", "Attempts to enrol that were refused, by reason.", "reason"
)

COORDINATOR_METRICS = (
    RUNS,
    ROUNDS_TOTAL,
    RUN_ROUND,
    ROUND_PHASE,
    ROUND_DURATION_SECONDS,
    AGGREGATION_SECONDS,
    UPDATES_TOTAL,
    REFUSALS_TOTAL,
    RPCS_TOTAL,
    RECEIVED_BYTES_TOTAL,
    SENT_BYTES_TOTAL,
    SITE_PRESENT,
    HELD_SINCE_TIMESTAMP_SECONDS,
    CANDIDATE_STRICT_F1_RATIO,
    CANDIDATE_LENIENT_F1_RATIO,
    CANDIDATE_TASK_STRICT_F1_RATIO,
    CANDIDATE_TASK_LENIENT_F1_RATIO,
    CANDIDATE_TASK_LOSS,
    CANDIDATE_LOSS,
    CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS,
    SITE_CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS,
    CA_EXPIRY_TIMESTAMP_SECONDS,
    ENROLMENT_REFUSALS_TOTAL,
)

# A site agent's; scraped by its hospital, seen by nobody else.
AGENT_CONNECTED = _gauge("fedmed_agent_connected", "1 while the coordinator answers, else 0.")
AGENT_ASSIGNMENTS_TOTAL = _counter(
    "fedmed_agent_assignments_total", "Assignments ended, by kind and outcome.", "kind", "outcome"
)
AGENT_ASSIGNMENT_ACTIVE = _gauge("fedmed_agent_assignment_active", "1 for the kind of work at hand, else 0.", "kind")
AGENT_SENT_BYTES_TOTAL = _counter("fedmed_agent_sent_bytes_total", "Protobuf payload sent, by rpc.", "rpc")
AGENT_RECEIVED_BYTES_TOTAL = _counter("fedmed_agent_received_bytes_total", "Protobuf payload received, by rpc.", "rpc")
AGENT_RPC_FAILURES_TOTAL = _counter("fedmed_agent_rpc_failures_total", "Calls that failed, by reason.", "reason")
AGENT_TRAIN_LOSS = _gauge("fedmed_agent_train_loss", "Mean token cross-entropy since the last report, in nats.")
AGENT_TRAIN_STEP = _gauge("fedmed_agent_train_step", "Steps done of the assignment at hand.")
AGENT_TRAIN_STEPS = _gauge("fedmed_agent_train_steps", "Steps of the assignment at hand in all.")
AGENT_TRAIN_EXAMPLES_TOTAL = _counter("fedmed_agent_train_examples_total", "Examples in updates sent, one pass each.")
AGENT_TOKENS_PER_SECOND = _gauge("fedmed_agent_tokens_per_second", "Non-padding tokens a second in training.")
AGENT_GPU_UTILISATION_RATIO = _gauge(
    "fedmed_agent_gpu_utilisation_ratio", "Share of time a GPU was busy, 0 to 1.", "gpu"
)
AGENT_GPU_MEMORY_BYTES = _gauge("fedmed_agent_gpu_memory_bytes", "GPU memory in use.", "gpu")
AGENT_GPU_MEMORY_LIMIT_BYTES = _gauge("fedmed_agent_gpu_memory_limit_bytes", "GPU memory there is.", "gpu")

AGENT_METRICS = (
    AGENT_CONNECTED,
    AGENT_ASSIGNMENTS_TOTAL,
    AGENT_ASSIGNMENT_ACTIVE,
    AGENT_SENT_BYTES_TOTAL,
    AGENT_RECEIVED_BYTES_TOTAL,
    AGENT_RPC_FAILURES_TOTAL,
    AGENT_TRAIN_LOSS,
    AGENT_TRAIN_STEP,
    AGENT_TRAIN_STEPS,
    AGENT_TRAIN_EXAMPLES_TOTAL,
    AGENT_TOKENS_PER_SECOND,
    AGENT_GPU_UTILISATION_RATIO,
    AGENT_GPU_MEMORY_BYTES,
    AGENT_GPU_MEMORY_LIMIT_BYTES,
    CERTIFICATE_EXPIRY_TIMESTAMP_SECONDS,
)

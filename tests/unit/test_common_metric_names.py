from __future__ import annotations

import re

import pytest

from common import metric_names
from common.metric_names import AGENT_METRICS, COORDINATOR_METRICS, Metric, MetricType

METRICS = sorted({*COORDINATOR_METRICS, *AGENT_METRICS}, key=lambda metric: metric.name)
# From the checks of `promtool check metrics` (prometheus/util/promlint): units that are not base units.
OTHER_UNITS = re.compile(r"(milli|micro|nano|kilo|mega|giga)|(minutes|hours|days|bits|percent)(_|$)")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_name_follows_prometheus_rules(metric: Metric) -> None:
    assert re.fullmatch(r"fedmed_[a-z][a-z0-9]*(_[a-z0-9]+)*", metric.name)
    assert not OTHER_UNITS.search(metric.name)
    assert not re.search(r"_(counter|gauge|histogram|summary|metric)(_|$)", metric.name)
    assert not metric.name.endswith(("_count", "_sum", "_bucket", "_info"))
    assert metric.name.endswith("_total") == (metric.type is MetricType.COUNTER)
    assert metric.help and metric.help.endswith(".")


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_labels_and_buckets_fit_the_type(metric: Metric) -> None:
    assert not {"le", "quantile", "job", "instance"} & set(metric.labels)
    assert bool(metric.buckets) == (metric.type is MetricType.HISTOGRAM)
    assert list(metric.buckets) == sorted(set(metric.buckets))


def test_every_metric_is_listed_for_a_service_once() -> None:
    constants = [value for value in vars(metric_names).values() if isinstance(value, Metric)]
    assert set(constants) == set(METRICS)
    assert len({metric.name for metric in METRICS}) == len(METRICS) == len(constants)

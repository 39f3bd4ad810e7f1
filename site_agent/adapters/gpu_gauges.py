"""GPU utilisation and memory through NVIDIA's own binding, read when Prometheus asks; nothing where there is no GPU."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import cached_property
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from common import metric_names as names


class GpuGauges(Collector):
    """Implements prometheus_client's collector protocol."""

    def collect(self) -> Iterable[Metric]:
        """One sample a GPU, labelled by its index, of what it tells (a part of a GPU has no utilisation of its own)."""
        nvml = self._nvml
        if nvml is None:
            return
        utilisation, used, limit = (
            GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
            for metric in (
                names.AGENT_GPU_UTILISATION_RATIO,
                names.AGENT_GPU_MEMORY_BYTES,
                names.AGENT_GPU_MEMORY_LIMIT_BYTES,
            )
        )
        count = 0
        with suppress(nvml.NVMLError):
            count = nvml.nvmlDeviceGetCount()
        for index in range(count):
            with suppress(nvml.NVMLError):
                device = nvml.nvmlDeviceGetHandleByIndex(index)
                memory = nvml.nvmlDeviceGetMemoryInfo(device)
                used.add_metric([str(index)], memory.used)
                limit.add_metric([str(index)], memory.total)
                utilisation.add_metric([str(index)], nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100)
        yield from (utilisation, used, limit)

    @cached_property
    def _nvml(self) -> Any:
        """The binding, started once; None without it, its library or a GPU."""
        try:
            import pynvml

            pynvml.nvmlInit()
        except (ImportError, OSError):
            return None
        except pynvml.NVMLError:
            return None
        return pynvml

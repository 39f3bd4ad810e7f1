"""How much of the device the process may take, and how much it took. It frees none."""

from __future__ import annotations

import os
import resource

import torch

from site_agent.orders import BaseModelSource
from site_agent.trainer.training.base_model import choose_device


def keep_to_share(order: BaseModelSource) -> None:
    """Keep to the site's share of the device from here on: of a GPU's memory, or of the CPU's cores.

    What goes beyond the share of a GPU's memory is an out-of-memory error of this process alone. Of a CPU at least one
    core is left to it.
    """
    threads = order.threads
    if order.gpu_share < 1:
        device = choose_device(order.device)
        if device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(order.gpu_share, torch.device("cuda", device.index or 0))
        else:
            threads = max(1, int((threads or len(os.sched_getaffinity(0))) * order.gpu_share))
    if threads:
        torch.set_num_threads(threads)


def peak_memory_bytes(device: torch.device) -> int:
    """The most that was taken so far: on the GPU by tensors, on a CPU by the whole process (Linux counts in KiB)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

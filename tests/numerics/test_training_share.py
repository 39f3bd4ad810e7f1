"""The site's share of its device, from the policy to torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from site_agent.app.ordering import LocalSettings, order_for
from site_agent.orders import BaseModelSource
from site_agent.trainer.training.memory import keep_to_share
from tests.fakes.site_policies import policy_for
from tests.fakes.site_values import evaluate_assignment, make_terms, train_assignment

LOCAL = LocalSettings(base_model_location="/model", device="cpu", threads=4, train_files=(), validation_files=())


@pytest.fixture(autouse=True)
def threads_as_before() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def source(threads: int, share: float, device: str = "cpu") -> BaseModelSource:
    expected = make_terms().base_model
    return BaseModelSource(location="/model", expected=expected, device=device, threads=threads, gpu_share=share)


def test_the_share_of_the_policy_is_in_every_order(tmp_path: Path) -> None:
    local = replace(LOCAL, gpu_share=policy_for(tmp_path, make_terms(), gpu_share=0.25).gpu_share)
    for assignment in (train_assignment(), evaluate_assignment()):
        assert order_for(assignment, local).base_model.gpu_share == 0.25


@pytest.mark.parametrize(("threads", "share", "expected"), [(4, 0.5, 2), (4, 0.1, 1), (3, 0.9, 2), (4, 1.0, 4)])
def test_on_a_cpu_the_share_is_of_its_cores_and_one_is_left(threads: int, share: float, expected: int) -> None:
    keep_to_share(source(threads, share))
    assert torch.get_num_threads() == expected


def test_without_a_number_of_threads_the_share_is_of_the_cores_that_the_process_has() -> None:
    keep_to_share(source(0, 0.5))
    assert torch.get_num_threads() == max(1, len(os.sched_getaffinity(0)) // 2)


@pytest.mark.parametrize(
    ("device", "taken"), [("cuda:0", "cuda:0"), ("cuda:1", "cuda:1"), ("cuda", "cuda:0"), ("auto", "cuda:0")]
)
def test_on_a_gpu_the_share_is_of_its_memory(device: str, taken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch takes a GPU with its number alone."""
    told: list[tuple[float, str]] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "set_per_process_memory_fraction", lambda share, device: told.append((share, str(device)))
    )
    keep_to_share(source(0, 0.3, device))
    assert told == [(0.3, taken)]


@pytest.mark.gpu
def test_a_gpu_gives_no_more_than_the_share() -> None:
    keep_to_share(source(0, 0.01, "cuda"))
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        with pytest.raises(torch.cuda.OutOfMemoryError):
            torch.empty(total // 20, dtype=torch.uint8, device="cuda")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)

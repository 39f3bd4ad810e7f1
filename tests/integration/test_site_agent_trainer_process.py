"""The trainer as a child process: an order is done once, and its result is durable before anybody builds on it."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest

from common.files import sync_folder
from site_agent.adapters.trainer_process import TrainerProcess, trainer_environment
from site_agent.orders import RESULT_FILE, BaseModelSource, InitialiseOrder, InitialiseResult, Progress
from tests.fakes import tiny_trainer
from tests.fakes.site import trainer_command, wait_for_file
from tests.fakes.site_values import make_terms


async def relay_nothing(_progress: Progress) -> None:
    """For work whose progress nobody wants."""


def order_in(tmp_path: Path) -> tuple[InitialiseOrder, Path]:
    """An order, and a folder for it."""
    order = InitialiseOrder(
        base_model=BaseModelSource(location="/models/tiny", expected=make_terms().base_model),
        lora=make_terms().lora,
        seed=0,
        wire_dtype="bf16",
    )
    folder = tmp_path / "assignments" / "one"
    folder.mkdir(parents=True)
    return order, folder


async def test_a_result_is_synced_before_anything_is_built_on_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order, folder = order_in(tmp_path)
    synced = []

    def note(path: Path) -> None:
        synced.append((path, (path / RESULT_FILE).is_file()))
        sync_folder(path)

    monkeypatch.setattr("site_agent.adapters.trainer_process.sync_folder", note)
    trainer = TrainerProcess(trainer_environment(os.environ, threads=1), command=trainer_command())
    await trainer.perform(folder, order, relay_nothing)
    assert synced == [(folder, True)]


async def test_an_order_that_was_done_is_not_done_again(tmp_path: Path) -> None:
    order, folder = order_in(tmp_path)
    trainer = TrainerProcess(trainer_environment(os.environ, threads=1), command=trainer_command())
    outcomes = [await trainer.perform(folder, order, relay_nothing) for _ in range(2)]
    assert isinstance(outcomes[0], InitialiseResult)
    assert outcomes[1] == outcomes[0]
    assert (tmp_path / "trainer_starts").read_text() == "one\n"


async def test_asked_to_stop_it_is_no_failure_and_the_order_can_be_done_again(tmp_path: Path) -> None:
    order, folder = order_in(tmp_path)
    trainer = TrainerProcess(trainer_environment(os.environ, threads=1), command=trainer_command("heeds_once"))
    work = asyncio.create_task(trainer.perform(folder, order, relay_nothing))
    await wait_for_file(tmp_path / tiny_trainer.PID_FILE)
    trainer.ask_to_stop(folder)
    assert await work is None
    assert (tmp_path / "trainer_starts").read_text() == "one\n", "who was asked to stop is not started again at once"
    assert isinstance(await trainer.perform(folder, order, relay_nothing), InitialiseResult)


async def test_a_trainer_that_was_killed_while_it_was_asked_to_stop_is_not_started_again(tmp_path: Path) -> None:
    order, folder = order_in(tmp_path)
    trainer = TrainerProcess(trainer_environment(os.environ, threads=1), command=trainer_command("hang_once"))
    work = asyncio.create_task(trainer.perform(folder, order, relay_nothing))
    pid = int(await wait_for_file(tmp_path / tiny_trainer.PID_FILE))
    trainer.ask_to_stop(folder)
    os.kill(pid, signal.SIGKILL)
    assert await work is None
    assert (tmp_path / "trainer_starts").read_text() == "one\n"

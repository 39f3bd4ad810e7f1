"""The coordinator's disk is full in the middle of a run of real processes, on a small file system of its own.

Uploads are refused with their reason and tried again; when there is room again, the run ends as it does undisturbed.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from common.errors import Reason
from tests.faults.conftest import Undisturbed
from tests.faults.processes import SITES, Federation, make_terms

pytestmark = pytest.mark.slow

ROUNDS, LORA_RANK = 2, 8  # an adapter of 4.94 MB
DISK_BYTES = 48 * 2**20
RESERVE = "8MiB"
FAILURES = 6  # of whatever kind, before there is room again
TRIES = 100  # to fill a disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A federation's folder whose coordinator has a file system of DISK_BYTES for its state."""
    state = tmp_path / "federation" / "coordinator" / "state"
    state.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "none", str(state)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root, and a kernel that lets it")
    yield tmp_path / "federation"
    subprocess.run(["umount", "--lazy", str(state)], check=True)


class _Ballast:
    """A file that takes what room there is."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ballast"

    def leave(self, free_bytes: int) -> None:
        """Leave so much. Others may write at the same time, and what they take is not there for the ballast."""
        for _ in range(TRIES):
            status = os.statvfs(self._path.parent)
            room = status.f_bavail * status.f_frsize - free_bytes
            if room <= 0:
                return
            with self._path.open("ab") as file, suppress(OSError):
                os.posix_fallocate(file.fileno(), file.tell(), room)
        raise AssertionError(f"{self._path.parent} has room after {TRIES} tries to fill it")

    def remove(self) -> None:
        """Give it all back."""
        self._path.unlink(missing_ok=True)


def _federation(folder: Path) -> Federation:
    return Federation(folder, make_terms(ROUNDS, LORA_RANK), settings={"disk_reserve": RESERVE})


def test_uploads_are_refused_while_there_is_no_room_and_the_round_survives(
    undisturbed: Undisturbed, small_disk: Path
) -> None:
    wanted = undisturbed(make_terms(ROUNDS, LORA_RANK))
    with _federation(small_disk) as federation:
        ballast = _Ballast(federation.prepared.state)
        ballast.leave(9 * 2**20)  # room for the reserve and the database, and for no adapter
        federation.create_run()
        to_be_told, is_training = {"evaluator"}, False
        for process, line in federation.follow():
            # gRPC loses the status of a call that ends while a message is being sent; the next try hears it.
            if line["event"] == "upload_interrupted" and line["reason"] != Reason.INTERNAL:
                assert line["reason"] == Reason.DISK_FULL
                to_be_told.discard(process)
                if not to_be_told:
                    ballast.remove()
            if line["event"] == "round_phase" and line["phase"] == "training" and not is_training:
                to_be_told, is_training = set(SITES), True
                ballast.leave(9 * 2**20)
        assert is_training and not to_be_told
        assert federation.published() == wanted
        assert federation.done_twice() == []


def test_a_disk_without_a_byte_left_stops_a_round_and_ends_none(undisturbed: Undisturbed, small_disk: Path) -> None:
    wanted = undisturbed(make_terms(ROUNDS, LORA_RANK))
    with _federation(small_disk) as federation:
        ballast = _Ballast(federation.prepared.state)
        federation.create_run()
        is_filled, failures = False, 0
        for _, line in federation.follow():
            if is_filled and line["event"] in ("upload_interrupted", "rpc_failed", "watch_failed"):
                failures += 1
                if failures == FAILURES:
                    ballast.remove()
            if line["event"] == "round_phase" and line["phase"] == "training" and not is_filled:
                is_filled = True
                ballast.leave(0)
        assert failures >= FAILURES
        assert federation.published() == wanted
        assert federation.done_twice() == []

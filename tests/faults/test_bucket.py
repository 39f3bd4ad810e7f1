"""A federation whose files are in an S3 bucket: the coordinator's disk lost, the server away. Real processes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from common.errors import Reason
from tests.fakes.coordinator_bucket import place
from tests.faults.conftest import Undisturbed
from tests.faults.processes import SITES, Federation, is_step, make_terms
from tests.faults.standby import Coordinator, write_config
from tests.faults.steps import COORDINATOR, Step
from tests.postgres import PostgresServer
from tests.running import make_consortium, wait_until
from tests.seaweed import SECRET, SeaweedServer

pytestmark = pytest.mark.slow

ROUNDS = 3
# For a registry that is being published again.
RESTORE_SECONDS = 60.0


def settings(server: SeaweedServer, folder: Path) -> dict[str, str]:
    """What the coordinator is told of the bucket that belongs to ``folder``."""
    where = place(server, folder)
    return {"blobs.bucket": where.bucket, "blobs.prefix": where.prefix, "blobs.endpoint": where.endpoint}


def follow(federation: Federation, happenings: Sequence[tuple[Step, Callable[[], object]]]) -> None:
    """Create the run and follow it to its end; each thing happens at its step, after the one before."""
    federation.create_run()
    waiting = list(happenings)
    for process, line in federation.follow():
        if waiting and is_step(waiting[0][0], process, line):
            waiting.pop(0)[1]()
    assert waiting == [], "everything has happened"


def at(event: str, process: str = COORDINATOR, **fields: Any) -> Step:
    return Step(process=process, event=event, fields=fields)


def test_a_coordinator_that_loses_its_disk_goes_on_from_the_bucket(
    undisturbed: Undisturbed, seaweed: SeaweedServer, postgres: PostgresServer, tmp_path: Path
) -> None:
    wanted = undisturbed(make_terms(ROUNDS))
    kept = {"database": postgres.url(tmp_path), **settings(seaweed, tmp_path)}
    with Federation(tmp_path / "federation", make_terms(ROUNDS), settings=kept) as federation:
        follow(
            federation,
            [
                (at("site_outcome", site=SITES[0], outcome="accepted", round_number=1), federation.lose_disk),
                (at("round_phase", phase="aggregating", round_number=2), federation.lose_disk),
                (at("round_phase", phase="evaluating", round_number=3), federation.lose_disk),
            ],
        )
        assert federation.done_twice() == []
        wait_until(lambda: federation.published() == wanted, RESTORE_SECONDS)
        assert SECRET not in federation.logs[COORDINATOR].path.read_text()
    stored = seaweed.keys(seaweed.bucket(tmp_path))
    assert len([key for key in stored if "/adapters/" in key]) == 1 + ROUNDS
    assert [key for key in stored if "/updates/" in key] == []


def test_a_server_that_is_away_holds_a_round_up_and_ends_none(
    undisturbed: Undisturbed, seaweed: SeaweedServer, tmp_path: Path
) -> None:
    wanted = undisturbed(make_terms(ROUNDS))
    with Federation(tmp_path / "federation", make_terms(ROUNDS), settings=settings(seaweed, tmp_path)) as federation:

        def stop_before_an_upload() -> None:
            federation.stop(SITES[0], seconds=math.inf)  # its upload does not come before the server is gone
            seaweed.stop()
            federation.go_on(SITES[0])

        follow(
            federation,
            [
                (at("round_phase", phase="training", round_number=2), stop_before_an_upload),
                (at("upload_interrupted", SITES[0], reason=Reason.STORE_AWAY), seaweed.start),
                (at("round_phase", phase="aggregating", round_number=3), seaweed.stop),
                (at("command_failed"), seaweed.start),
            ],
        )
        assert {"bucket_away", "bucket_back"} <= federation.events(COORDINATOR)
        assert federation.published() == wanted
        assert federation.done_twice() == []


def test_one_that_waits_on_another_machine_takes_a_round_over(
    undisturbed: Undisturbed, seaweed: SeaweedServer, postgres: PostgresServer, tmp_path: Path
) -> None:
    wanted = undisturbed(make_terms(ROUNDS))
    kept = {"database": postgres.url(tmp_path), **settings(seaweed, tmp_path)}
    with Federation(tmp_path / "federation", make_terms(ROUNDS), settings=kept) as federation, ExitStack() as stack:
        federation.create_run()  # the first one has the store now
        config = federation.prepared.coordinator_config
        other = config.with_name("other.toml")
        other.write_text(config.read_text().replace('state_folder = "state"', 'state_folder = "other"'))
        waiting = Coordinator(other, tmp_path / "other.log")
        stack.callback(waiting.end)
        federation.logs["other"] = waiting.log
        follow(
            federation,
            [
                (
                    at("site_outcome", site=SITES[0], outcome="accepted", round_number=2),
                    lambda: federation.kill_for_good(COORDINATOR),
                )
            ],
        )
        federation.prepared = replace(federation.prepared, state=config.with_name("other"))
        wait_until(lambda: federation.published() == wanted, RESTORE_SECONDS)
        wait_until(lambda: "version_restored" in federation.events("other"), RESTORE_SECONDS)
        assert federation.done_twice() == []


def test_one_that_may_wait_waits_for_a_server_that_is_away_at_its_start(seaweed: SeaweedServer, tmp_path: Path) -> None:
    config = write_config(make_consortium(tmp_path), tmp_path / "state")
    lines = "".join(f"{name.partition('.')[2]} = {value!r}\n" for name, value in settings(seaweed, tmp_path).items())
    config.write_text(f"{config.read_text()}[blobs]\n{lines}")
    with ExitStack() as stack:
        seaweed.stop()
        try:
            coordinator = Coordinator(config, tmp_path / "coordinator.log")
            stack.callback(coordinator.end)
            coordinator.wait_for("coordinator_waits")
            assert coordinator.log.lines[-1]["reason"] == Reason.STORE_AWAY
        finally:
            seaweed.start()
        coordinator.wait_for("coordinator_started")

"""A federation on PostgreSQL: coordinator killed, its sessions ended, the server restarted. Real processes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.conftest import Undisturbed
from tests.faults.processes import Federation, is_step, make_terms
from tests.faults.steps import COORDINATOR, Step
from tests.postgres import PASSWORD, PostgresServer

pytestmark = pytest.mark.slow

ROUNDS = 4


def test_a_run_on_postgres_ends_as_on_sqlite_whatever_breaks(
    undisturbed: Undisturbed, postgres: PostgresServer, tmp_path: Path
) -> None:
    wanted = undisturbed(make_terms(ROUNDS))

    def restart() -> None:
        postgres.stop()
        postgres.start()

    database = postgres.url(tmp_path)
    with Federation(tmp_path / "postgres", make_terms(ROUNDS), settings={"database": database}) as federation:
        waiting: list[tuple[int, str, Callable[[], object]]] = [
            (1, "aggregating", lambda: federation.kill(COORDINATOR)),
            (2, "training", restart),
            (3, "evaluating", lambda: postgres.end_sessions(tmp_path)),
        ]
        federation.create_run()
        for process, line in federation.follow():
            for number, phase, happens in list(waiting):
                step = Step(process=COORDINATOR, event="round_phase", fields={"phase": phase, "round_number": number})
                if is_step(step, process, line):
                    waiting.remove((number, phase, happens))
                    happens()
        assert waiting == [], "everything has happened"
        assert federation.done_twice() == []
        assert federation.published() == wanted
        assert PASSWORD not in federation.logs[COORDINATOR].path.read_text()
    stored = "SELECT count(*) FROM rounds WHERE phase = 'committed' OR phase = 'rejected'"
    assert postgres.execute(stored, database=postgres.database(tmp_path)) == [(ROUNDS,)]
    assert not list((tmp_path / "postgres").rglob("coordinator.db"))

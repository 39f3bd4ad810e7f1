"""What happens before the first rpc after a start: runs are loaded, files that belong to none of them swept."""

from __future__ import annotations

from collections.abc import Sequence

from common.ids import AssignmentId, Digest
from common.tls import Role
from coordinator.app.ports import BlobStore, RunStore, named
from coordinator.app.round_driver import RoundDriver
from coordinator.domain.aggregation import strategy_of
from coordinator.domain.cohort import initialise_assignment_id, kept_updates
from coordinator.domain.kept_state import needed_states
from coordinator.domain.values import Run, RunState


async def recover(driver: RoundDriver, store: RunStore, blobs: BlobStore) -> int:
    """Load runs and pending commands, sweep files; returns how many files were removed."""
    await driver.load()
    rounds = [run.current for run in driver.runs if run.current is not None]
    live = {entry.assignment_id for current in rounds for entry in current.awaited}
    entries = [entry for current in rounds for entry in current.accepted]
    entries += [entry for run in driver.runs for past in run.rounds for entry in kept_updates(run, past)]
    accepted = {entry.assignment_id: entry.update.file.digest for entry in entries if entry.update is not None}
    accepted |= {part.part_id: part.file.digest for current in rounds for part in current.parts}
    for run in driver.runs:
        accepted |= needed_states(run)
    adapters = {digest for run in driver.runs for digest in _adapters(run)}
    return await blobs.sweep(live | await _initialising(driver.runs, store), accepted, adapters)


async def _initialising(runs: tuple[Run, ...], store: RunStore) -> set[AssignmentId]:
    known = named(await store.known_sites(), Role.EVALUATOR)
    waiting = [run for run in runs if run.state is RunState.INITIALISING]
    return {initialise_assignment_id(run.run_id, evaluator) for run in waiting for evaluator in known}


def _adapters(run: Run) -> set[Digest]:
    files = [run.first_adapter, *(past.candidate for past in run.rounds)]
    return {file.digest for file in files if file is not None}


def needed_adapters(runs: Sequence[Run]) -> set[Digest]:
    """What agents of open runs may ask for, and what their rounds are made from: the global adapters' moves, too."""
    open_runs = [run for run in runs if run.state.is_open and run.current is not None]
    latest = [past for run in open_runs for past in run.rounds[-2:]]
    files = [file for past in latest for file in (past.global_adapter, past.candidate)]
    files += [run.first_adapter for run in open_runs if _starts_fresh(run)]
    return {file.digest for file in files if file is not None}


def _starts_fresh(run: Run) -> bool:
    """Whether the sites of the open round train from the first adapter."""
    current = run.current
    plan = strategy_of(run.terms).plan
    return current is not None and any(plan(current.number, entry.site).starts_fresh for entry in current.roster)

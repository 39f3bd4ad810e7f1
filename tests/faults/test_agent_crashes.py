"""An agent that dies at any change of its disk, and around any message, gives the same answer once, trained once.

One process plays the agent's lives over its real journal, order folder, download and upload; the coordinator and the
trainer are played, and outlive it. The trainer's own changes are places to die too: it dies with its agent.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from common.adapter import FactorSet, WireDtype
from common.errors import Reason
from common.files import write_whole
from common.ids import AssignmentId, Digest, digest_of
from common.weights_io import WeightsReader, write_weights
from site_agent.adapters.approval_folder import ApprovalFolder
from site_agent.adapters.begun_rounds import BegunFile
from site_agent.adapters.journal import FileJournal
from site_agent.adapters.metrics import AgentMetrics
from site_agent.adapters.order_folder import read_outcome, write_order
from site_agent.adapters.personal_folder import PersonalFolder
from site_agent.adapters.update_file import describe_file, measure_move
from site_agent.app.answers import EvaluationScores, ReportedProgress, UploadHeader, UploadOffset
from site_agent.app.ordering import LocalSettings
from site_agent.app.parts import Parts
from site_agent.app.perform_assignment import perform_assignment
from site_agent.app.ports import Entry, Order, ProgressRelay, Result, Verdict
from site_agent.app.retrying import Patience
from site_agent.domain.assignment import Assignment
from site_agent.domain.assignment_machine import AssignmentState, Stage
from site_agent.domain.policy import SitePolicy
from site_agent.orders import OWN_FILE, PERSONAL_FILE, RESULT, RESULT_FILE, UPDATE_FILE, Failure, TrainOrder
from tests.fakes.crashes import Fuse, Killed
from tests.fakes.site_scene import ADAPTER, NOON, TRAINED, assignment_of
from tests.fakes.site_values import EVERY_KIND, UNAPPROVED, make_spec, with_work

PIECE_BYTES = 100
WEIGHTS = {tensor.name: np.full(tensor.shape, 0.5, np.float32) for tensor in make_spec().tensors}


@dataclass(slots=True, kw_only=True)
class PlayedCoordinator:
    """Keeps what arrives of an upload, and how often it accepted one."""

    fuse: Fuse = field(default_factory=Fuse)
    arrived: bytes = b""
    accepted: list[Digest] = field(default_factory=list)

    async def await_assignment(self, current: AssignmentId | None, held_for: Reason | None = None) -> None:
        raise AssertionError("no poll is expected")

    async def decline(self, assignment_id: AssignmentId, reason: Reason) -> None:
        raise AssertionError(f"no decline is expected, got {reason}")

    async def report_evaluation(self, assignment_id: AssignmentId, scores: EvaluationScores) -> None:
        raise AssertionError("no evaluation is expected")

    async def report_progress(self, assignment_id: AssignmentId, progress: ReportedProgress) -> None:
        self.fuse.burn()

    async def download(self, digest: Digest, offset: int) -> AsyncGenerator[bytes, None]:
        for start in range(offset, len(ADAPTER), PIECE_BYTES):
            self.fuse.burn()
            yield ADAPTER[start : start + PIECE_BYTES]

    async def upload_offset(self, assignment_id: AssignmentId, digest: Digest) -> UploadOffset:
        self.fuse.burn()
        return UploadOffset(offset=len(self.arrived), is_accepted=digest in self.accepted)

    async def upload(self, header: UploadHeader, path: Path, offset: int) -> None:
        content = path.read_bytes()  # noqa: ASYNC240 - a few hundred bytes
        assert offset == len(self.arrived), "it goes on where it was"
        for start in range(offset, len(content), PIECE_BYTES):
            self.fuse.burn()
            self.arrived += content[start : start + PIECE_BYTES]
        assert digest_of(self.arrived) == header.digest
        self.accepted.append(header.digest)
        self.fuse.burn()  # the acknowledgement is lost


@dataclass(slots=True, kw_only=True)
class PlayedTrainer:
    """Writes the update and the result as the child process does; counts how often it began and ended."""

    starts: int = 0
    ends: int = 0

    async def perform(self, folder: Path, order: Order, relay: ProgressRelay) -> Result | Failure:
        outcome = read_outcome(folder)
        if outcome is not None:
            return outcome
        write_order(folder, order)
        self.starts += 1
        write_weights(folder / UPDATE_FILE, WEIGHTS, WireDtype.BF16)
        if isinstance(order, TrainOrder) and order.own is not None:
            with WeightsReader(folder / OWN_FILE) as own:
                trained = {slot.name: own.tensor(slot.name) + 1 for slot in own.layout.tensors}
            write_weights(folder / PERSONAL_FILE, trained, WireDtype.F32)
        write_whole(folder / RESULT_FILE, RESULT.dump_json(TRAINED))
        self.ends += 1
        return TRAINED

    def ask_to_stop(self, folder: Path) -> None:
        raise AssertionError("this site has no hours")

    def outcome(self, folder: Path) -> Result | Failure | None:
        return read_outcome(folder)


@dataclass(slots=True, kw_only=True)
class World:
    """Everything that outlives an agent."""

    folder: Path
    coordinator: PlayedCoordinator = field(default_factory=PlayedCoordinator)
    trainer: PlayedTrainer = field(default_factory=PlayedTrainer)
    assignment: Assignment = field(default_factory=assignment_of)
    policy: SitePolicy = EVERY_KIND

    async def live(self, fuse: Fuse) -> bool:
        """One life of an agent that was handed the assignment; whether it came to its end."""
        self.coordinator.fuse = fuse
        with fuse.burning():
            try:
                await self._work()
            except Killed:
                return False
        return True

    async def _work(self) -> None:
        parts = Parts(
            coordinator=self.coordinator,
            trainer=self.trainer,
            journal=FileJournal(self.folder),
            personal=PersonalFolder(self.folder),
            approvals=ApprovalFolder(self.folder),
            begun=BegunFile(self.folder),
            describe_file=describe_file,
            measure_move=measure_move,
            observer=AgentMetrics(certificate_expires_at=0.0),
            policy=self.policy,
            local=LocalSettings(
                base_model_location="/model", device="cpu", threads=1, train_files=("/notes",), validation_files=()
            ),
            now=lambda: NOON,
            patience=Patience(jitter=lambda: 0.0),
        )
        opened = parts.journal.open_entries()
        if not opened and parts.journal.find(self.assignment.assignment_id) is None:
            opened = [Entry(assignment=self.assignment, state=AssignmentState())]
            parts.record(opened[0])
        for entry in opened:
            await perform_assignment(entry, parts, lambda reason: None)

    def check(self, what: str) -> None:
        """The assignment is done, once, and nothing heavy is left of it."""
        journal = FileJournal(self.folder)
        entry = journal.find(self.assignment.assignment_id)
        assert entry is not None, what
        assert entry.state.stage is Stage.DONE, what
        assert len(self.coordinator.accepted) == 1, what
        assert self.trainer.ends <= 1, f"{what}: what was trained was trained again"
        assert journal.open_entries() == [], what
        left = {path.name for path in journal.folder(self.assignment.assignment_id).iterdir()}
        assert left == {"assignment.json"}, what


@dataclass(slots=True, kw_only=True)
class PersonalWorld(World):
    """A site that has kept factors of round 1, all zero, and trains in round 2, which adds one to each."""

    assignment: Assignment = field(
        default_factory=lambda: with_work(replace(assignment_of(), round_number=2), own=FactorSet.B_ONLY)
    )

    def __post_init__(self) -> None:
        kept = {tensor.name: np.zeros(tensor.shape, np.float32) for tensor in make_spec().tensors_of(FactorSet.B_ONLY)}
        self.folder.mkdir()
        write_weights(self.folder / PERSONAL_FILE, kept, WireDtype.F32)
        PersonalFolder(self.folder).keep(self.assignment.terms, 1, self.folder / PERSONAL_FILE)

    def check(self, what: str) -> None:
        """It has trained its own factors once, too, and kept them."""
        World.check(self, what)
        latest = PersonalFolder(self.folder).latest(self.assignment.terms.name)
        with WeightsReader(latest) as reader:
            assert all((reader.tensor(slot.name) == 1).all() for slot in reader.layout.tensors), what
        assert sorted(path.name for path in latest.parent.glob("*.safetensors")) == [
            "00001.safetensors",
            "00002.safetensors",
        ], what


async def test_a_site_that_dies_once_anywhere_keeps_its_own_factors_trained_once(tmp_path: Path) -> None:
    count = await places(tmp_path / "undisturbed", PersonalWorld)
    for place in range(1, count + 1):
        world = PersonalWorld(folder=tmp_path / f"dies-at-{place}")
        assert not await world.live(Fuse(place)), f"place {place} of {count} was never reached"
        assert await world.live(Fuse())
        world.check(f"killed at place {place} of {count}")


async def places(folder: Path, kind: type[World] = World) -> int:
    """How many there are to die at."""
    world, fuse = kind(folder=folder), Fuse()
    assert await world.live(fuse)
    world.check("undisturbed")
    return fuse.count


async def test_an_agent_that_dies_once_anywhere_gives_its_answer_once(tmp_path: Path) -> None:
    count = await places(tmp_path / "undisturbed")
    assert count > 50
    for place in range(1, count + 1):
        world = World(folder=tmp_path / f"dies-at-{place}")
        assert not await world.live(Fuse(place)), f"place {place} of {count} was never reached"
        assert await world.live(Fuse())
        world.check(f"killed at place {place} of {count}")


async def test_an_agent_that_dies_again_and_again_gives_its_answer_once(tmp_path: Path) -> None:
    count = await places(tmp_path / "undisturbed")
    for seed in range(100):
        world, dies = World(folder=tmp_path / f"seed-{seed}"), random.Random(seed)
        lives = 1
        while not await world.live(Fuse(dies.randint(15, count))):
            lives += 1
            assert lives < 1000, f"seed {seed}: it gets nowhere"
        world.check(f"seed {seed}, {lives} lives")


async def test_an_agent_that_dies_anywhere_while_it_waits_for_a_person_gives_its_answer_once_and_only_then(
    tmp_path: Path,
) -> None:
    yes = Verdict(is_approved=True, by="alice", at=NOON)
    count = await places(tmp_path / "undisturbed")
    for place in range(1, count + 1):
        world = World(folder=tmp_path / f"dies-at-{place}", policy=UNAPPROVED)
        approvals = ApprovalFolder(world.folder)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.01):  # nobody has decided: it dies, or it waits
                await world.live(Fuse(place))
        assert (world.trainer.starts, world.coordinator.arrived) == (0, b""), f"place {place}: it has begun"
        approvals.decide(world.assignment.terms.digest, yes)
        await world.live(Fuse(place))
        assert await world.live(Fuse())
        world.check(f"killed at place {place} of {count}, before and after the approval")

"""The coordinator's use cases over their real store and folder, with a clock that only a test moves. No sockets."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog import ReturnLogger, wrap_logger
from structlog.typing import FilteringBoundLogger

from common.adapter import AdapterSpec
from common.errors import FedMedError, Reason
from common.ids import AssignmentId, Digest, SiteName
from common.signing import UpdateSignature
from common.terms import Terms
from common.tls import Caller, Peer, Role
from coordinator.adapters.storage.blob_folder import BlobFolder
from coordinator.adapters.storage.bucket import Bucket
from coordinator.adapters.storage.bucket_blobs import BucketBlobs
from coordinator.adapters.storage.engine import Database, SqliteDatabase
from coordinator.adapters.storage.member_store import SqlMemberStore
from coordinator.adapters.storage.run_store import SqlRunStore
from coordinator.app.answers import Answers
from coordinator.app.check_signature import SigningKeys
from coordinator.app.counted_time import CountedTime
from coordinator.app.create_run import create
from coordinator.app.perform_commands import CommandPerformer
from coordinator.app.poll import Poll
from coordinator.app.ports import BlobStore
from coordinator.app.presence import Presence
from coordinator.app.recovery import needed_adapters, recover
from coordinator.app.round_driver import RoundDriver
from coordinator.app.standings import Standings
from coordinator.app.update_intake import ReceivedChunk, UpdateIntake, UploadClaim
from coordinator.domain import assignments
from coordinator.domain import events as ev
from coordinator.domain.assignments import Assignment
from coordinator.domain.commands import Command, CommandKind
from coordinator.domain.events import RunEvent
from coordinator.domain.values import Phase, RosterEntry, Round, Run
from tests.fakes.coordinator_updates import chunks_of, digest_bytes, read_float64, trained_claim, update_bytes
from tests.fakes.coordinator_values import ANNA, BERTA, CLARA, EVALUATOR, SITES, START, make_spec, make_terms

HOLD_SECONDS = 30.0
LINGER_SECONDS = 60.0
# After so long a test that waits is taken to hang; far above anything that a busy machine needs.
HANG_SECONDS = 120.0


class NobodysKeys:
    """No signing key is known to be anybody's."""

    def objection(self, caller: Caller, signature: UpdateSignature) -> str | None:
        return "expected one that somebody knows"

    def is_revoked(self, public_key: str) -> bool:
        return False


class FakeClock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return START + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


@dataclass(slots=True)
class RecordingObserver:
    """Keeps what it is told."""

    moves: list[tuple[Run | None, Run, RunEvent | None]] = field(default_factory=list)
    failures: list[tuple[Command, Exception]] = field(default_factory=list)
    watch_failures: list[Exception] = field(default_factory=list)
    aggregations: list[float] = field(default_factory=list)

    def run_moved(self, before: Run | None, after: Run, event: RunEvent | None) -> None:
        self.moves.append((before, after, event))

    def command_failed(self, command: Command, error: Exception) -> None:
        self.failures.append((command, error))

    def watch_failed(self, error: Exception) -> None:
        self.watch_failures.append(error)


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One life of a coordinator over the state in ``root``: ``blobs`` is its folder, ``kept`` its store of files."""

    root: Path
    clock: FakeClock
    store: SqlRunStore
    blobs: BlobFolder
    kept: BlobStore
    presence: Presence
    observer: RecordingObserver
    driver: RoundDriver
    intake: UpdateIntake
    answers: Answers
    poll: Poll
    performer: CommandPerformer
    members: SqlMemberStore
    standings: Standings
    swept: int

    @property
    def run(self) -> Run:
        """The only run."""
        (run,) = self.driver.runs
        return run

    @property
    def round(self) -> Round:
        """The open round of the only run."""
        assert self.run.current is not None, f"expected an open round, the run is {self.run.state}"
        return self.run.current

    @property
    def registry(self) -> Path:
        """Where adapters are published."""
        return self.root / "registry"

    def update_files(self) -> list[str]:
        """Names of all files of updates, whole or not, sorted."""
        return sorted(path.name for path in (self.root / "updates").iterdir())

    def adapter_files(self) -> list[str]:
        """Names of all files of adapters, sorted."""
        return sorted(path.name for path in (self.root / "adapters").iterdir())

    def entry(self, site: SiteName) -> RosterEntry:
        """The site in the newest round."""
        return next(entry for entry in self.run.rounds[-1].roster if entry.site == site)

    def assignment(self, site: SiteName) -> Assignment:
        """The site's live assignment."""
        given = assignments.for_site(self.run, site)
        assert given is not None, f"expected an assignment for {site}"
        return given

    def base(self) -> Digest:
        """What updates of the open round are trained from."""
        return self.round.global_adapter.digest

    def spec(self) -> AdapterSpec:
        """The run's specification."""
        assert self.run.spec is not None
        return self.run.spec

    async def begin(
        self, terms: Terms | None = None, spec: AdapterSpec | None = None, content: bytes | None = None
    ) -> Run:
        """Create a run and send its first adapter, ``content`` or a random one; its first round waits for sites."""
        run = await create(self.driver, self.clock, terms or make_terms())
        given = assignments.for_evaluator(run, EVALUATOR)
        assert given is not None
        spec = spec or make_spec()
        content = content or update_bytes(self.root, spec, seed=1000)
        claim = UploadClaim(
            assignment_id=given.assignment_id, digest=digest_bytes(content), size_bytes=len(content), first_spec=spec
        )
        await self.intake.receive(evaluator(), claim, chunks_of(content))
        await self.perform_pending()
        return self.driver.run_of(run.run_id)

    async def invite(self, sites: Sequence[SiteName] = SITES, max_lora_ranks: Mapping[SiteName, int] = {}) -> None:
        """Let the sites come, and say up to which rank they train, so that every waiting round is trained by them."""
        for name in sites:
            await self.store.remember_site(name, Role.SITE, self.clock.now())
            self.presence.enter(name, max_lora_ranks.get(name, 0))
        await self.driver.observe_presence()
        for command in await self.store.pending_commands():
            if command.kind is CommandKind.CUT_PARTS:
                await self.performer.perform(command)
                await self.store.complete(command)

    async def training(self, terms: Terms | None = None, spec: AdapterSpec | None = None) -> None:
        """Begin a run and invite all sites to its first round."""
        await self.begin(terms, spec)
        await self.invite()

    def honest_bytes(self, seed: int) -> bytes:
        """A file that the open round may accept of a site that trains at the run's rank."""
        return update_bytes(self.root, self.spec(), seed)

    def claim(self, site: SiteName, content: bytes, num_label_tokens: int = 100) -> UploadClaim:
        """The site's header for ``content``."""
        given = self.assignment(site)
        assert given.adapter is not None, "training starts from an adapter"
        return trained_claim(given.assignment_id, content, given.adapter.digest, num_label_tokens=num_label_tokens)

    async def send(self, site: SiteName, content: bytes, num_label_tokens: int = 100) -> Digest:
        """Upload ``content`` as the site's update."""
        return await self.intake.receive(
            site_caller(site), self.claim(site, content, num_label_tokens), chunks_of(content)
        )

    async def answer(self, *sites: SiteName) -> None:
        """Let those sites send honest updates, each one of its own, with counts of its own."""
        for site in sites:
            number = SITES.index(site)
            await self.send(site, self.honest_bytes(number), num_label_tokens=100 * (number + 1))

    async def commit_round(self, updates: Sequence[bytes]) -> dict[str, NDArray[np.float64]]:
        """Carry the open round to its end with an update of each of SITES; the adapter that it published."""
        number = self.run.rounds[-1].number
        for site, content in zip(SITES, updates, strict=True):
            await self.send(site, content)
        await self.perform_pending()
        assert self.run.rounds[number - 1].phase is Phase.COMMITTED
        return read_float64((self.registry / "trial" / "served" / "adapter_model.safetensors").read_bytes())

    async def perform_pending(self) -> list[Command]:
        """Perform what is stored and not completed, to the end; returns what was performed."""
        done: list[Command] = []
        while pending := await self.store.pending_commands():
            for command in pending:
                await self.performer.perform(command)
                await self.store.complete(command)
                done.append(command)
        return done

    async def post(self, event: RunEvent) -> Run:
        """Step the only run."""
        return await self.driver.post(self.run.run_id, event)

    async def abort(self) -> Run:
        """End the only run, as an operator does."""
        return await self.post(ev.AbortRequested(at=self.clock.now()))

    def candidate_bytes(self) -> bytes:
        """The open round's candidate."""
        assert self.round.candidate is not None
        return self.blobs.adapter_path(self.round.candidate.digest).read_bytes()


@asynccontextmanager
async def coordinator(
    root: Path,
    clock: FakeClock | None = None,
    longest_gap_seconds: float = math.inf,
    database: Database | None = None,
    bucket: Bucket | None = None,
    keys: SigningKeys | None = None,
) -> AsyncIterator[World]:
    """Start a coordinator over the state in ``root``, whatever an earlier life left there; stopping stores nothing.

    Its runs are kept in ``database``, or else in ``root`` too; so are its files in ``bucket``.
    """
    clock = clock or FakeClock()
    folder, store = BlobFolder(root), SqlRunStore(database or SqliteDatabase(root))
    members = SqlMemberStore(store)
    heard = {site.name: site.role for site in await store.known_sites()}
    standings = Standings(await members.membership(), heard)
    presence, observer = Presence(clock.monotonic, LINGER_SECONDS, standings.is_out), RecordingObserver()
    driver = RoundDriver(store, presence, observer, clock, CountedTime(clock, longest_gap_seconds))
    blobs = folder if bucket is None else BucketBlobs(folder, bucket, lambda: needed_adapters(driver.runs))
    performer = CommandPerformer(
        driver=driver,
        store=store,
        blobs=blobs,
        clock=clock,
        registry=root / "registry",
        log=cast(FilteringBoundLogger, wrap_logger(ReturnLogger(), processors=[])),  # says nothing
        aggregated=observer.aggregations.append,
    )
    try:
        yield World(
            root=root,
            clock=clock,
            store=store,
            blobs=folder,
            kept=blobs,
            presence=presence,
            observer=observer,
            driver=driver,
            intake=UpdateIntake(driver, blobs, clock, keys or NobodysKeys(), standings),
            answers=Answers(driver, clock),
            poll=Poll(driver, presence, store, standings, clock, HOLD_SECONDS),
            performer=performer,
            members=members,
            standings=standings,
            swept=await recover(driver, store, blobs),
        )
    finally:
        await store.close()
        if isinstance(blobs, BucketBlobs):
            await blobs.close()


def site_caller(name: SiteName) -> Caller:
    """A site, as its certificate names it."""
    return Caller(name=name, role=Role.SITE, consortium="demo")


def peer(caller: Caller, valid_from: datetime = START, serial: str = "") -> Peer:
    """The caller with a certificate of that serial; one that is noted nowhere, unless said."""
    return Peer(caller=caller, serial=serial, valid_from=valid_from, expires_at=START + timedelta(days=365))


def evaluator(name: SiteName = EVALUATOR) -> Caller:
    """An evaluator, as its certificate names it."""
    return Caller(name=name, role=Role.EVALUATOR, consortium="demo")


def foreign_id() -> AssignmentId:
    """An id of no assignment."""
    return AssignmentId("0" * 32)


@asynccontextmanager
async def running(work: Awaitable[None]) -> AsyncIterator[None]:
    """Let ``work`` go on beside the block; at most HANG_SECONDS, so that a hang is a failure."""
    task = asyncio.ensure_future(work)
    try:
        async with asyncio.timeout(HANG_SECONDS):
            yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(world: World, condition: Callable[[Run], bool]) -> None:
    """Wait until the only run is as wanted, for a bounded time."""
    async with asyncio.timeout(HANG_SECONDS):
        while not condition(world.run):
            await world.driver.wait_for_change(HANG_SECONDS)


async def until_pending(world: World, count: int) -> None:
    """Wait until so many commands are stored and not completed, for a bounded time."""
    async with asyncio.timeout(HANG_SECONDS):
        while len(await world.store.pending_commands()) != count:
            pass  # the question itself lets others go on


async def refusal(
    world: World, site: SiteName, claim: UploadClaim, chunks: AsyncIterator[ReceivedChunk]
) -> FedMedError:
    """What the site is told when it sends that."""
    with pytest.raises(FedMedError) as refused:
        await world.intake.receive(site_caller(site), claim, chunks)
    return refused.value


async def candidate_without_clara(root: Path) -> bytes:
    """The candidate of a round in which clara declined: what one without her update must equal."""
    async with coordinator(root) as world:
        await world.training()
        wanted = world.assignment(CLARA).assignment_id
        await world.answer(ANNA, BERTA)
        await world.answers.decline(site_caller(CLARA), wanted, Reason.NOTES_TOO_FEW)
        await world.perform_pending()
        return world.candidate_bytes()


async def no_chunks() -> AsyncIterator[ReceivedChunk]:
    """Chunks that must not be asked for."""
    raise AssertionError("a byte was read")
    yield  # a generator

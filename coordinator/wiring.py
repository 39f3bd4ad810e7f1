"""Puts the coordinator together, once, top to bottom. Decides nothing."""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from structlog.typing import FilteringBoundLogger

from common.clock import Clock, SystemClock
from common.errors import FedMedError, InputInvalidError, NotNowError, Reason, UnavailableError
from common.identity_folder import IdentityFolder
from common.logging import get_logger
from common.signing import RELEASE_FILES, load_signing_key
from coordinator.adapters.metrics import CoordinatorMetrics, Snapshot, serve_metrics
from coordinator.adapters.pki.issuing import FolderIssuer
from coordinator.adapters.pki.own_certificate import OwnCertificate
from coordinator.adapters.pki.signing_keys import KnownSigningKeys
from coordinator.adapters.rpc.admin_service import AdminServicer, AdminUseCases, MembershipUseCases, RegistryServicer
from coordinator.adapters.rpc.identity_service import EnrolmentServicer, IdentityServicer, keep_refusals_told
from coordinator.adapters.rpc.interceptor import GuardInterceptor
from coordinator.adapters.rpc.rounds_service import RoundServicer, RoundUseCases
from coordinator.adapters.rpc.server import RunningServer, Servicers, start_enrolment_server, start_server
from coordinator.adapters.rpc.traffic_meter import TrafficMeter
from coordinator.adapters.storage.blob_folder import BlobFolder
from coordinator.adapters.storage.disk_room import DiskRoom
from coordinator.adapters.storage.engine import Database, SqliteDatabase, exclusive
from coordinator.adapters.storage.member_store import SqlMemberStore
from coordinator.adapters.storage.postgres import held
from coordinator.adapters.storage.run_store import SqlRunStore
from coordinator.adapters.story import Story
from coordinator.app.answers import Answers
from coordinator.app.counted_time import CountedTime
from coordinator.app.enrol_site import Enrolment
from coordinator.app.make_release import ReleaseMaker
from coordinator.app.members import Members
from coordinator.app.perform_commands import CommandPerformer
from coordinator.app.poll import Poll
from coordinator.app.ports import BlobStore
from coordinator.app.presence import Presence
from coordinator.app.recovery import needed_adapters, recover
from coordinator.app.restore_registry import lost_versions, restore
from coordinator.app.round_driver import RoundDriver
from coordinator.app.standings import Standings
from coordinator.app.update_intake import UpdateIntake
from coordinator.config import BlobsSection, CoordinatorConfig, CoordinatorSection, EnrolmentSection

if TYPE_CHECKING:
    from coordinator.adapters.storage.bucket import Bucket

# How long open rpcs may take to finish after SIGTERM; polls answer at once.
SHUTDOWN_GRACE_SECONDS = 2.0
# How soon a waiting coordinator notices that the store is free.
STANDBY_SECONDS = 0.5

T = TypeVar("T")


def serve(config: CoordinatorConfig, *, standby: bool = False) -> None:
    """Run the coordinator until SIGTERM or SIGINT; with ``standby``, wait until no other one holds the store.

    Raises:
        FedMedError: the configuration names something that is not there, or another coordinator holds the store, from
            the beginning or since this one was away for too long.
    """
    identity = IdentityFolder(config.identity.folder)
    with _held(config, standby=standby) as (database, bucket):
        # The loop's end waits for its threads: whatever they still write, they write before the store is let go. It
        # does not wait for a bucket that says nothing: see `BucketBlobs.close`.
        asyncio.run(_serve(config, identity, database, bucket))
        if database.lost.done():
            get_logger("coordinator").error("store_lost", reason=database.lost.result().reason)
            raise database.lost.result()


@contextmanager
def _held(config: CoordinatorConfig, *, standby: bool) -> Iterator[tuple[Database, Bucket | None]]:
    """The folder is held before the database, so that who waits for the second has no rival for the first.

    The bucket comes last: what is swept in it was there before this coordinator's first transaction.
    """
    section = config.coordinator
    url = section.database.get_secret_value()
    with ExitStack() as stack:
        _enter(stack, lambda: exclusive(section.state_folder), standby=standby)
        database = _enter(stack, lambda: held(url), standby=standby) if url else SqliteDatabase(section.state_folder)
        bucket = _enter(stack, lambda: _opened(config.blobs), standby=standby) if config.blobs.bucket else None
        yield database, bucket


def _opened(section: BlobsSection) -> AbstractContextManager[Bucket]:
    """The bucket; botocore is loaded where there is one alone, since it takes memory."""
    try:
        from coordinator.adapters.storage import bucket
    except ModuleNotFoundError as error:
        if error.name != "botocore":
            raise
        needed = "blobs: a bucket needs the library botocore: pip install '.[coordinator,s3]'"
        raise InputInvalidError(Reason.CONFIG_INVALID, needed) from None
    return bucket.opened(bucket.BucketPlace(**section.model_dump()))


@asynccontextmanager
async def _blobs(
    config: CoordinatorSection, bucket: Bucket | None, store: SqlRunStore, driver: RoundDriver
) -> AsyncIterator[BlobStore]:
    room = DiskRoom(reserve_bytes=config.disk_reserve, quota_bytes=config.disk_quota)
    folder = BlobFolder(config.state_folder, room)
    if bucket is None:
        yield folder
        return
    from coordinator.adapters.storage.bucket_blobs import BucketBlobs

    await asyncio.to_thread(bucket.claim, await store.store_id())
    blobs = BucketBlobs(folder, bucket, lambda: needed_adapters(driver.runs))
    try:
        yield blobs
    finally:
        await blobs.close()


def _enter(stack: ExitStack, hold: Callable[[], AbstractContextManager[T]], *, standby: bool) -> T:
    told: Reason | None = None
    while True:
        try:
            return stack.enter_context(hold())
        except (NotNowError, UnavailableError) as error:
            if not standby:
                raise
            reason = error.reason
        if told is not reason:
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # the first process of a container has no default
            get_logger("coordinator").info("coordinator_waits", reason=reason)
            told = reason
        time.sleep(STANDBY_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Core:
    """What almost everything works with."""

    identity: IdentityFolder
    store: SqlRunStore
    standings: Standings
    presence: Presence
    driver: RoundDriver
    answers: Answers
    metrics: CoordinatorMetrics
    clock: Clock
    log: FilteringBoundLogger

    @property
    def consortium(self) -> str:
        return self.identity.current().caller.consortium


async def _core(config: CoordinatorConfig, identity: IdentityFolder, database: Database) -> _Core:
    clock, metrics, store, log = SystemClock(), CoordinatorMetrics(), SqlRunStore(database), get_logger("coordinator")
    heard = {site.name: site.role for site in await store.known_sites()}
    standings = Standings(await SqlMemberStore(store).membership(), heard)
    presence = Presence(clock.monotonic, config.coordinator.poll_hold, standings.is_out)
    driver = RoundDriver(store, presence, Story(log, metrics), clock, CountedTime(clock))
    return _Core(
        identity=identity,
        store=store,
        standings=standings,
        presence=presence,
        driver=driver,
        answers=Answers(driver, clock),
        metrics=metrics,
        clock=clock,
        log=log,
    )


async def _serve(
    config: CoordinatorConfig, identity: IdentityFolder, database: Database, bucket: Bucket | None
) -> None:
    core = await _core(config, identity, database)
    driver, store, log, section = core.driver, core.store, core.log, config.coordinator
    async with _blobs(section, bucket, store, driver) as blobs:
        performer = CommandPerformer(
            driver=driver,
            store=store,
            blobs=blobs,
            clock=core.clock,
            registry=section.state_folder / "registry",
            log=log,
            aggregated=core.metrics.aggregated,
        )
        swept = await recover(driver, store, blobs)
        core.presence.know(site.name for site in await store.known_sites())
        issuer = _issuer(config.enrolment, core)
        membership = _membership(config.enrolment, core, issuer, blobs)
        await membership.members.finish()
        core.metrics.show(lambda: _snapshot(core, issuer))
        stop_metrics = serve_metrics(config.metrics.listen, core.metrics)
        servers = await _started(config, core, membership, _round_use_cases(section, core, blobs))
        log.info("coordinator_started", listen_address=section.listen, count=len(driver.runs), blobs=swept)
        try:
            lost = lost_versions(performer.registry, driver.runs, await store.pending_commands())
            works = [
                driver.watch(),
                driver.perform_commands(performer.perform),
                restore(lost, blobs, performer.registry, log),
                keep_refusals_told(membership.enrolment, log),
                OwnCertificate(folder=core.identity, issuer=issuer, clock=core.clock, log=log).keep(),
            ]
            await _until_stopped(works, database)
        finally:
            driver.stop()
            await asyncio.gather(*(running.server.stop(SHUTDOWN_GRACE_SECONDS) for running in servers))
            stop_metrics()
            await store.close()
            log.info("coordinator_stopped")


def _issuer(config: EnrolmentSection, core: _Core) -> FolderIssuer:
    return FolderIssuer(
        folder=config.issuing_ca,
        consortium=core.consortium,
        lifetime=timedelta(seconds=config.certificate_life),
        trust_bundle_pem=lambda: core.identity.identity().trust_bundle_pem,
    )


def _membership(config: EnrolmentSection, core: _Core, issuer: FolderIssuer, blobs: BlobStore) -> MembershipUseCases:
    members = SqlMemberStore(core.store)
    return MembershipUseCases(
        enrolment=Enrolment(members, core.standings, issuer, core.store, core.clock, secrets.token_urlsafe),
        members=Members(members, core.standings, core.driver, blobs, core.clock),
        standings=core.standings,
        issuer=issuer,
        consortium=core.consortium,
        enrolment_port=int(config.listen.rpartition(":")[2]) if config.listen else 0,
    )


def _round_use_cases(config: CoordinatorSection, core: _Core, blobs: BlobStore) -> RoundUseCases:
    return RoundUseCases(
        driver=core.driver,
        poll=Poll(core.driver, core.presence, core.store, core.standings, core.clock, config.poll_hold),
        intake=UpdateIntake(core.driver, blobs, core.clock, _signing_keys(core), core.standings),
        answers=core.answers,
        blobs=blobs,
        meter=TrafficMeter(core.store),
        stream_progress_seconds=config.stream_progress_deadline,
    )


def _signing_keys(core: _Core) -> KnownSigningKeys:
    return KnownSigningKeys(
        lambda: core.identity.identity().trust_bundle_pem, core.standings.signing_key, core.standings.is_key_revoked
    )


async def _started(
    config: CoordinatorConfig, core: _Core, membership: MembershipUseCases, rounds: RoundUseCases
) -> list[RunningServer]:
    admin = AdminUseCases(
        driver=core.driver,
        answers=core.answers,
        presence=core.presence,
        store=core.store,
        clock=core.clock,
        membership=membership,
        audit=core.store,
        releases=ReleaseMaker(
            core.driver, core.store, core.clock, load_signing_key(config.identity.folder, RELEASE_FILES)
        ),
    )
    servicers = Servicers(
        rounds=RoundServicer(rounds),
        admin=AdminServicer(admin),
        registry=RegistryServicer(core.driver),
        identity=IdentityServicer(membership.enrolment, membership.members),
    )
    guard = GuardInterceptor(
        core.consortium, core.metrics, core.log, config.coordinator.stream_progress_deadline, core.standings
    )
    servers = [await start_server(config.coordinator.listen, core.identity.identity, guard, servicers)]
    if config.enrolment.listen:
        enrolment = EnrolmentServicer(membership.enrolment, core.metrics, core.log)
        servers.append(await start_enrolment_server(config.enrolment.listen, core.identity.identity, enrolment))
    return servers


def _snapshot(core: _Core, issuer: FolderIssuer) -> Snapshot:
    """What the gauges show; asked by a thread of the metrics server."""
    newest: dict[str, float] = {}
    for each in core.standings.certificates(core.clock.now()):
        newest.setdefault(each.name, each.expires_at.timestamp())
    ca_expires_at = None
    with suppress(FedMedError):  # a folder that is being replaced, say
        ca_expires_at = issuer.expires_at()
    return Snapshot(
        runs=core.driver.runs,
        presence=core.presence.snapshot(),
        certificate_expires_at=core.identity.current().expires_at.timestamp(),
        ca_expires_at=None if ca_expires_at is None else ca_expires_at.timestamp(),
        members_expire_at=tuple(sorted((name, at) for name, at in newest.items() if name)),
    )


async def _until_stopped(works: Sequence[Coroutine[None, None, None]], database: Database) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    asyncio.wrap_future(database.lost).add_done_callback(lambda _: stopped.set())
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in works]
        await stopped.wait()
        for task in tasks:
            task.cancel()

"""Puts the coordinator together, once, top to bottom. Decides nothing."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeVar

from cryptography import x509

from common.clock import SystemClock
from common.errors import InputInvalidError, NotNowError, Reason, UnavailableError
from common.logging import get_logger
from common.tls import Identity, caller_from_certificate, load_identity
from coordinator.adapters.metrics import CoordinatorMetrics, Snapshot, serve_metrics
from coordinator.adapters.rpc.admin_service import AdminServicer, AdminUseCases, RegistryServicer
from coordinator.adapters.rpc.interceptor import GuardInterceptor
from coordinator.adapters.rpc.rounds_service import RoundServicer, RoundUseCases
from coordinator.adapters.rpc.server import Servicers, start_server
from coordinator.adapters.rpc.traffic_meter import TrafficMeter
from coordinator.adapters.storage.blob_folder import BlobFolder
from coordinator.adapters.storage.disk_room import DiskRoom
from coordinator.adapters.storage.engine import Database, SqliteDatabase, exclusive
from coordinator.adapters.storage.postgres import held
from coordinator.adapters.storage.run_store import SqlRunStore
from coordinator.adapters.story import Story
from coordinator.app.answers import Answers
from coordinator.app.counted_time import CountedTime
from coordinator.app.perform_commands import CommandPerformer
from coordinator.app.poll import Poll
from coordinator.app.ports import BlobStore
from coordinator.app.presence import Presence
from coordinator.app.recovery import needed_adapters, recover
from coordinator.app.restore_registry import lost_versions, restore
from coordinator.app.round_driver import RoundDriver
from coordinator.app.update_intake import UpdateIntake
from coordinator.config import BlobsSection, CoordinatorConfig, CoordinatorSection

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
    identity = load_identity(config.identity.folder)
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


async def _serve(config: CoordinatorConfig, identity: Identity, database: Database, bucket: Bucket | None) -> None:
    clock, metrics, store = SystemClock(), CoordinatorMetrics(), SqlRunStore(database)
    presence = Presence(clock.monotonic, linger_seconds=config.coordinator.poll_hold)
    driver = RoundDriver(store, presence, Story(get_logger("coordinator"), metrics), clock, CountedTime(clock))
    state, log = config.coordinator.state_folder, get_logger("coordinator")
    consortium = caller_from_certificate(identity.certificate_pem).consortium
    async with _blobs(config.coordinator, bucket, store, driver) as blobs:
        answers = Answers(driver, clock)
        meter = TrafficMeter(store)
        performer = CommandPerformer(
            driver=driver,
            store=store,
            blobs=blobs,
            clock=clock,
            registry=state / "registry",
            log=log,
            aggregated=metrics.aggregated,
        )

        swept = await recover(driver, store, blobs)
        presence.know(site.name for site in await store.known_sites())
        rounds = RoundUseCases(
            driver=driver,
            poll=Poll(driver, presence, store, clock, config.coordinator.poll_hold),
            intake=UpdateIntake(driver, blobs, clock),
            answers=answers,
            blobs=blobs,
            meter=meter,
            stream_progress_seconds=config.coordinator.stream_progress_deadline,
        )
        admin = AdminUseCases(driver=driver, answers=answers, presence=presence, store=store, clock=clock)
        servicers = Servicers(
            rounds=RoundServicer(rounds), admin=AdminServicer(admin), registry=RegistryServicer(driver)
        )
        guard = GuardInterceptor(consortium, metrics, log, config.coordinator.stream_progress_deadline)
        expires_at = x509.load_pem_x509_certificate(identity.certificate_pem).not_valid_after_utc.timestamp()
        metrics.show(
            lambda: Snapshot(runs=driver.runs, presence=presence.snapshot(), certificate_expires_at=expires_at)
        )
        stop_metrics = serve_metrics(config.metrics.listen, metrics)
        running = await start_server(config.coordinator.listen, identity, guard, servicers)
        log.info("coordinator_started", listen_address=config.coordinator.listen, count=len(driver.runs), blobs=swept)
        try:
            lost = lost_versions(performer.registry, driver.runs, await store.pending_commands())
            works = [
                driver.watch(),
                driver.perform_commands(performer.perform),
                restore(lost, blobs, performer.registry, log),
            ]
            await _until_stopped(works, database)
        finally:
            driver.stop()
            await running.server.stop(SHUTDOWN_GRACE_SECONDS)
            stop_metrics()
            await store.close()
            log.info("coordinator_stopped")


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

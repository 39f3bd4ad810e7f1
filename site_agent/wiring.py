"""Puts the agent together, once, top to bottom. Decides nothing."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

from common.clock import SystemClock
from common.config import config_invalid
from common.errors import FedMedError, InputInvalidError, NotFoundError, Reason
from common.identity_folder import CertifiedIdentity, IdentityFolder
from common.ids import check_digest
from common.join_file import JoinFile
from common.logging import get_logger
from common.signing import load_signing_key
from common.tls import Role
from site_agent.adapters.approval_folder import ApprovalFolder, person
from site_agent.adapters.begun_rounds import BegunFile
from site_agent.adapters.enrolment_client import enrol, withdraw
from site_agent.adapters.identity_files import read_identity
from site_agent.adapters.journal import FileJournal
from site_agent.adapters.ledger import FileLedger
from site_agent.adapters.metrics import AgentMetrics, MetricsTls, serve_metrics
from site_agent.adapters.outgoing import Attribution, CommandAttribution, JournalAttribution
from site_agent.adapters.personal_folder import PersonalFolder
from site_agent.adapters.recorded_channel import Dial, RecordedChannel
from site_agent.adapters.registry_client import RegistryClient, coordinator_serves, server_time
from site_agent.adapters.renewable_coordinator import RenewableCoordinator, connected
from site_agent.adapters.state_lock import exclusive, is_held
from site_agent.adapters.trainer_process import TRAINER_COMMAND, TrainerProcess, trainer_environment
from site_agent.adapters.update_file import describe_file, measure_move
from site_agent.app.agent_loop import AgentLoop
from site_agent.app.fetch_adapter import AdapterVersion, fetch_served_adapter
from site_agent.app.keep_identity import keep_identity
from site_agent.app.ordering import LocalSettings
from site_agent.app.parts import Parts
from site_agent.app.ports import Verdict
from site_agent.app.retrying import Patience
from site_agent.app.review import Review, review
from site_agent.config import MetricsSection, SiteConfig
from site_agent.domain.ledger import Origin
from site_agent.domain.policy import unwritten_policy
from site_agent.policy_file import WrittenPolicy, load_policy, narrowed


async def run_agent(config: SiteConfig) -> None:
    """Run one agent until SIGTERM or SIGINT.

    Raises:
        FedMedError: It cannot start; the message says why.
    """
    who = read_identity(config.identity.folder)
    written = policy_of(config, who)
    signing_key = load_signing_key(config.identity.folder)
    with ExitStack() as stack:
        stack.enter_context(exclusive(config.site.state_folder))
        metrics = AgentMetrics(who.expires_at.timestamp())
        stack.callback(_serve_metrics(config.metrics, metrics))
        _stop_on_signals()
        _log_start(config, who)
        journal, clock, section = FileJournal(config.site.state_folder), SystemClock(), config.coordinator
        ledger = FileLedger(config.site.state_folder, who.caller.uri, Origin.AGENT, clock)
        dial = Dial(section.address, ledger, JournalAttribution(journal), section.server_name)
        folder = IdentityFolder(config.identity.folder)
        own = RenewableCoordinator(folder, dial, metrics, clock, written.policy.max_lora_rank)
        async with connected(own) as coordinator:
            parts = Parts(
                coordinator=coordinator,
                trainer=TrainerProcess(
                    trainer_environment(os.environ, config.trainer.threads),
                    command=config.trainer.command or TRAINER_COMMAND,
                ),
                journal=journal,
                personal=PersonalFolder(config.site.state_folder, config.personal.head_start),
                approvals=ApprovalFolder(config.site.state_folder),
                begun=BegunFile(config.site.state_folder),
                describe_file=describe_file,
                measure_move=measure_move,
                observer=metrics,
                policy=written.policy,
                local=_local_settings(config, written.policy.gpu_share),
                now=lambda: SystemClock().now().astimezone(written.zone),
                patience=Patience(jitter=random.random),
                signing_key=signing_key,
            )
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(keep_identity(coordinator, clock, parts.patience.sleep))
                    await AgentLoop(parts).run()
            except asyncio.CancelledError:
                get_logger("site_agent").info("agent_stopped")


async def find_ailment(config: SiteConfig) -> str | None:
    """What is wrong with the agent of ``config``, seen from outside; None when nothing is."""
    who = read_identity(config.identity.folder)
    if not is_held(config.site.state_folder):
        return f"no agent works in {config.site.state_folder}"
    async with _channel(config, who, Origin.COMMAND, CommandAttribution()) as channel:
        if not await coordinator_serves(channel):
            return f"the coordinator at {config.coordinator.address} does not answer this site"
    return None


async def enrol_site(config: SiteConfig, join: JoinFile) -> datetime:
    """Become the member that ``join`` is for; returns until when the certificate is good.

    Raises:
        FedMedError: The coordinator said no, or does not answer.
    """
    ledger = FileLedger(config.site.state_folder, join.caller.uri, Origin.COMMAND, SystemClock())
    dial = Dial(join.address, ledger, CommandAttribution(), config.coordinator.server_name)
    return await enrol(join, config.identity.folder, dial)


async def withdraw_site(config: SiteConfig) -> None:
    """End the membership of the site of ``config``; one that has ended already stays so.

    Raises:
        FedMedError: The coordinator said no, or does not answer.
    """
    who = read_identity(config.identity.folder)
    async with _channel(config, who, Origin.COMMAND, CommandAttribution()) as channel:
        await withdraw(channel)


async def fetch_personal(config: SiteConfig, run: str, out: Path, say: Callable[[str], None]) -> AdapterVersion:
    """Bring the latest adapter of ``run`` to ``out``, with this site's own factors; raises as ``fetch_served``."""
    own = PersonalFolder(config.site.state_folder).latest(run)
    return await fetch_served(config, run, out, say, own)


async def fetch_served(
    config: SiteConfig, run: str, out: Path, say: Callable[[str], None], own: Path | None = None
) -> AdapterVersion:
    """Bring the last promoted adapter of ``run`` to ``out``; what goes wrong on the way is told to ``say``.

    Raises:
        FedMedError: The coordinator said no, or does not answer.
    """
    who = read_identity(config.identity.folder)

    def say_failure(error: FedMedError, _attempt: int, wait_seconds: float) -> None:
        say(f"{error.reason}: {error.message}; trying again in {wait_seconds:.1f} s")

    async with _channel(config, who, Origin.COMMAND, CommandAttribution(run)) as channel:
        return await fetch_served_adapter(
            RegistryClient(channel, who.expires_at), run, out, Patience(jitter=random.random), say_failure, own
        )


async def ask_time(config: SiteConfig, who: CertifiedIdentity) -> tuple[datetime, datetime, datetime]:
    """This machine's time before, the coordinator's, and this machine's after.

    Raises:
        FedMedError: The coordinator said no, or does not answer.
    """
    clock = SystemClock()
    async with _channel(config, who, Origin.COMMAND, CommandAttribution()) as channel:
        before = clock.now()
        there = await server_time(channel)
        return before, there, clock.now()


def _channel(config: SiteConfig, who: CertifiedIdentity, origin: Origin, attribution: Attribution) -> RecordedChannel:
    """A channel to the coordinator; what leaves over it is in the site's ledger."""
    ledger = FileLedger(config.site.state_folder, who.caller.uri, origin, SystemClock())
    dial = Dial(config.coordinator.address, ledger, attribution, config.coordinator.server_name)
    return dial.channel(who.identity)


def policy_of(config: SiteConfig, who: CertifiedIdentity) -> WrittenPolicy:
    """What this agent takes part in: by its role and files, and by the policy that the site wrote down, if it did.

    Raises:
        InputInvalidError: CONFIG_INVALID: the policy, the identity and the configuration do not go together.
    """
    written = load_site_policy(config, _kinds(config, who.caller.role))
    if config.policy.file is not None and written.consortium != who.caller.consortium:
        expected = f"expected {who.caller.consortium}, of the certificate"
        raise config_invalid(config.policy.file, [f"federation.consortium: {expected}, got {written.consortium}"])
    return written


def load_site_policy(config: SiteConfig, kinds: frozenset[str] | None = None) -> WrittenPolicy:
    """The policy of the file that ``config`` names, or that of a site which has written none down.

    ``kinds``: of work; None for those that the configuration's own files speak for.

    Raises:
        InputInvalidError: CONFIG_INVALID: the file is none, or does not name the coordinator that is dialled.
    """
    weights_digest = config.base_model.weights_digest
    if kinds is None:
        kinds = frozenset({"train"} if config.data.train else {"evaluate"})
    if config.policy.file is None:
        policy = unwritten_policy(kinds, config.policy.strategies, weights_digest, config.policy.max_lora_rank)
        return WrittenPolicy(consortium="", coordinators=frozenset(), zone=UTC, policy=policy)
    written = narrowed(
        load_policy(config.policy.file, kinds, weights_digest),
        strategies=config.policy.narrowed_to,
        max_lora_rank=config.policy.max_lora_rank,
    )
    dialled = config.coordinator.server_name or config.coordinator.address.rpartition(":")[0]
    if dialled not in written.coordinators:  # whom TLS makes prove that name
        expected = f"expected {dialled}, which is dialled"
        raise config_invalid(
            config.policy.file, [f"federation.coordinators: {expected}, got {', '.join(sorted(written.coordinators))}"]
        )
    return written


def review_runs(config: SiteConfig) -> tuple[Review, ...]:
    """Every run that was offered to this site, oldest first, as its policy and its people see it."""
    policy, folder = load_site_policy(config).policy, ApprovalFolder(config.site.state_folder)
    return tuple(
        review(offer.terms, offer.first_seen_at, folder.verdict(offer.terms.digest), policy)
        for offer in folder.offers()
    )


def decide(config: SiteConfig, digest: str, *, is_approved: bool, because: str = "") -> Review:
    """Keep what the person at the terminal says to the terms of that digest; the agent notices by itself.

    Raises:
        InputInvalidError: It is no digest, or the policy cannot be read.
        NotFoundError: RUN_UNKNOWN: nothing of that digest was offered to this site.
    """
    # Before anything is kept: who is told that the command failed must not have decided.
    policy, folder = load_site_policy(config).policy, ApprovalFolder(config.site.state_folder)
    offer = folder.offer(check_digest(digest, "digest"))
    if offer is None:
        message = f"terms {digest}: expected the digest of a run that `fedmed-site review` shows, got another"
        raise NotFoundError(Reason.RUN_UNKNOWN, message)
    verdict = Verdict(is_approved=is_approved, by=person(), at=SystemClock().now(), because=because)
    folder.decide(offer.terms.digest, verdict)
    return review(offer.terms, offer.first_seen_at, verdict, policy)


def _kinds(config: SiteConfig, role: Role) -> frozenset[str]:
    """What this agent does by its role and its files: a site trains, an evaluator makes and scores adapters."""
    needed = "validation" if role is Role.EVALUATOR else "train"
    if not getattr(config.data, needed):
        message = f"data.{needed}: expected at least one file for a certificate of role {role}, got none"
        raise InputInvalidError(Reason.CONFIG_INVALID, message)
    kinds = {"initialise", "score", "evaluate"} if role is Role.EVALUATOR else {"train"}
    return frozenset(kinds | ({"evaluate"} if config.data.validation else set()))


def _local_settings(config: SiteConfig, gpu_share: float) -> LocalSettings:
    return LocalSettings(
        base_model_location=config.base_model.location,
        device=config.trainer.device,
        threads=config.trainer.threads,
        train_files=_names(config.data.train),
        validation_files=_names(config.data.validation),
        validation_passages=config.data.validation_passages,
        checkpoint_seconds=config.trainer.checkpoint_every,
        tasks=config.data.tasks,
        test_files=_names(config.data.test),
        gpu_share=gpu_share,
    )


def _names(paths: tuple[Path, ...]) -> tuple[str, ...]:
    return tuple(str(path) for path in paths)


def _serve_metrics(section: MetricsSection, metrics: AgentMetrics) -> Callable[[], None]:
    tls = None
    if section.certificate is not None and section.key is not None:
        tls = MetricsTls(certificate=section.certificate, key=section.key, client_ca=section.client_ca)
    try:
        return serve_metrics(section.listen, metrics.registry, tls)
    except OSError as error:
        message = f"metrics: cannot serve on {section.listen}: {error.strerror or type(error).__name__}"
        raise InputInvalidError(Reason.CONFIG_INVALID, message) from None


def _stop_on_signals() -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def _log_start(config: SiteConfig, who: CertifiedIdentity) -> None:
    get_logger("site_agent").info(
        "agent_started",
        site=who.caller.name,
        role=str(who.caller.role),
        consortium=who.caller.consortium,
        address=config.coordinator.address,
        location=config.base_model.name or config.base_model.location,
        expires_at=who.expires_at.isoformat(),
        metrics_address=config.metrics.listen,
    )

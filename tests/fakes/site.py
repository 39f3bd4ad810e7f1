"""An agent in the test's own process, over real mutual TLS, with the tiny trainer as its child."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

from common.clock import SystemClock
from common.identity_folder import IdentityFolder
from common.tls import Role
from site_agent.adapters.approval_folder import ApprovalFolder
from site_agent.adapters.begun_rounds import BegunFile
from site_agent.adapters.journal import FileJournal
from site_agent.adapters.ledger import FileLedger
from site_agent.adapters.metrics import AgentMetrics
from site_agent.adapters.outgoing import JournalAttribution
from site_agent.adapters.personal_folder import PersonalFolder
from site_agent.adapters.recorded_channel import Dial
from site_agent.adapters.renewable_coordinator import RenewableCoordinator, connected
from site_agent.adapters.trainer_process import TrainerProcess, kernel_oom_kills, trainer_environment
from site_agent.adapters.update_file import describe_file, measure_move
from site_agent.app.agent_loop import AgentLoop
from site_agent.app.ordering import LocalSettings
from site_agent.app.parts import Parts
from site_agent.app.retrying import Patience
from site_agent.domain.ledger import Origin
from site_agent.domain.policy import SitePolicy
from tests.fakes import tiny_trainer
from tests.fakes.site_values import EVERY_KIND
from tests.running import Consortium

WAIT_SECONDS, POLL_SECONDS = 30.0, 0.02
PATIENCE = Patience(base_seconds=0.05, cap_seconds=0.2, look_seconds=0.05, jitter=lambda: 1.0)


def trainer_command(fault: str = "none") -> tuple[str, ...]:
    """Starts the tiny trainer, with a fault or ``none``."""
    return (sys.executable, "-P", tiny_trainer.__file__, fault)


def has_ended(pid: int) -> bool:
    """Whether the process is gone, or a zombie that nobody has waited for."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


async def until(happened: Callable[[], object]) -> None:
    """Poll for what another process does, for a bounded time."""
    async with asyncio.timeout(WAIT_SECONDS):
        while not await asyncio.to_thread(happened):  # noqa: ASYNC110 - no event crosses processes
            await asyncio.sleep(POLL_SECONDS)


async def wait_for_file(path: Path) -> str:
    """The content of a file that another process writes whole."""
    await until(path.exists)
    return await asyncio.to_thread(path.read_text)


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeSite:
    """One site's folders and settings; agents come and go on them."""

    state_folder: Path
    consortium: Consortium
    name: str = "anna"
    role: Role = Role.SITE

    @property
    def trainer_starts(self) -> int:
        """How often a trainer was started at this site."""
        path = self.state_folder / "trainer_starts"
        return len(path.read_text().splitlines()) if path.exists() else 0

    @property
    def folders(self) -> list[Path]:
        """The order folders."""
        return sorted((self.state_folder / "assignments").iterdir())

    @contextlib.asynccontextmanager
    async def agent(
        self,
        port: int,
        fault: str = "none",
        oom_kills: Callable[[], int] = kernel_oom_kills,
        policy: SitePolicy = EVERY_KIND,
    ) -> AsyncIterator[AgentMetrics]:
        """An agent that runs inside the block; its end is that of a process that gets SIGTERM."""
        metrics = AgentMetrics(certificate_expires_at=0.0)
        folder = IdentityFolder(self.consortium.identity(self.name, self.role))
        journal = FileJournal(self.state_folder)
        ledger = FileLedger(self.state_folder, folder.current().caller.uri, Origin.AGENT, SystemClock())
        dial = Dial(f"localhost:{port}", ledger, JournalAttribution(journal))
        async with connected(
            RenewableCoordinator(folder, dial, metrics, SystemClock(), policy.max_lora_rank)
        ) as coordinator:
            parts = Parts(
                coordinator=coordinator,
                trainer=TrainerProcess(
                    trainer_environment(os.environ, threads=1),
                    command=trainer_command(fault),
                    progress_seconds=0.05,
                    oom_kills=oom_kills,
                ),
                journal=journal,
                personal=PersonalFolder(self.state_folder),
                approvals=ApprovalFolder(self.state_folder),
                begun=BegunFile(self.state_folder),
                describe_file=describe_file,
                measure_move=measure_move,
                observer=metrics,
                policy=policy,
                local=LocalSettings(
                    base_model_location="/models/tiny",
                    device="cpu",
                    threads=1,
                    train_files=("/notes/train.jsonl",),
                    validation_files=("/notes/validation.jsonl",),
                ),
                now=SystemClock().now,
                patience=PATIENCE,
            )
            running = asyncio.create_task(AgentLoop(parts, pause_seconds=0.05).run())
            try:
                yield metrics
            finally:
                if not running.done():  # by itself it ends only with an error, which is raised here
                    running.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await running

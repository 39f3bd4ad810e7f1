"""Runs the trainer on chains of orders, as many chains beside each other as there is room for, and tells how it goes.

A *chain* is a row of order folders that one trainer process works through. What the orders say is not its business.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from rich.console import Console

from demo.processes import ProcessGroup
from site_agent.orders import (
    FAILURE,
    FAILURE_FILE,
    PROGRESS,
    PROGRESS_FILE,
    RESULT,
    RESULT_FILE,
    EvaluateResult,
    Result,
)
from site_agent.trainer.extraction.scoring import f1

POLL_SECONDS = 0.2
TRAINER_LOG = "trainer.log"


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One order of a chain.

    Attributes:
        says: What has been done when it is done, in words for a person.
    """

    folder: Path
    says: str

    @property
    def is_done(self) -> bool:
        """Whether the trainer has left a result."""
        return (self.folder / RESULT_FILE).is_file()

    def result(self) -> Result:
        """What the trainer left; it is done."""
        return RESULT.validate_json((self.folder / RESULT_FILE).read_bytes())


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Orders that one trainer process works through, all in folders of ``folder``."""

    folder: Path
    links: Sequence[Link]


def run_chains(chains: Sequence[Chain], at_once: int, group: ProcessGroup, console: Console) -> None:
    """Run all of them, in their order, at most ``at_once`` beside each other; tell each order that is done.

    Raises:
        RuntimeError: a trainer failed; says what it said, and where its folder is.
    """
    waiting, running = list(chains), list[Chain]()
    untold = [link for chain in chains for link in chain.links]
    total = len(untold)
    with console.status("") as status:
        while untold:
            while waiting and len(running) < at_once:
                running.append(_start(waiting.pop(0), group))
            time.sleep(POLL_SECONDS)
            ended = group.ended()  # asked first: what a trainer did before it ended is on disk by now
            for link in [link for link in untold if link.is_done]:
                untold.remove(link)
                line = f"{total - len(untold)} of {total}: {_told(link)}"
                console.print(line, soft_wrap=True, highlight=False, markup=False)
            for chain in [chain for chain in running if _name(chain) in ended]:
                group.stop([_name(chain)])
                running.remove(chain)
                _check(chain)
            status.update("; ".join(_at_work(chain) for chain in running))


def _start(chain: Chain, group: ProcessGroup) -> Chain:
    environment = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    folders = [str(link.folder) for link in chain.links]
    log = chain.folder / TRAINER_LOG
    group.start(_name(chain), "site_agent.trainer", *folders, environment=environment, log=log)
    return chain


def _name(chain: Chain) -> str:
    return str(chain.links[0].folder)


def _check(chain: Chain) -> None:
    for link in chain.links:
        if not link.is_done:
            failure = link.folder / FAILURE_FILE
            detail = f"its output is in {chain.folder / TRAINER_LOG}"
            if failure.is_file():
                known = FAILURE.validate_json(failure.read_bytes())
                detail = f"{known.reason}: {known.detail}"
            raise RuntimeError(f"the trainer failed on {link.folder}: {detail}")


def _told(link: Link) -> str:
    result = link.result()
    if isinstance(result, EvaluateResult) and result.strict is not None:
        return f"{link.says}, strict F1 {f1(result.strict):.3f}"
    return link.says


def _at_work(chain: Chain) -> str:
    """What a running chain is at: words for its order, and how far its trainer is."""
    link = next((link for link in chain.links if not link.is_done), chain.links[-1])
    try:
        progress = PROGRESS.validate_json((link.folder / PROGRESS_FILE).read_bytes())
    except (OSError, ValidationError):
        return link.says
    return f"{link.says} ({progress.stage} {progress.step}/{progress.steps})"

"""Combines a round's updates into a candidate, module by module, so that memory does not grow with the adapter.

It reads and writes files by position and decides nothing: the strategy weighs and combines. Runs in a thread, and has
others combine several modules at once where memory allows: a module's outcome does not depend on another's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from common.adapter import A_SUFFIX, B_SUFFIX, AdapterSpec
from common.ids import SiteName
from common.terms import Terms
from common.weights_io import WeightsReader, WeightsWriter
from coordinator.app.ports import Pending, Threads
from coordinator.domain.aggregation import strategy_of
from coordinator.domain.aggregation.server_momentum import carry_on
from coordinator.domain.aggregation.strategy import Contribution, Factors
from coordinator.domain.values import AdapterFile, RosterEntry, Run

T = TypeVar("T")
U = TypeVar("U")

# Modules under way or in line for the writer, and what they may take together as float32, of all updates.
_AT_ONCE = 3
_HELD_BYTES = 2**26
_FLOAT32_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """The files that a candidate is made from.

    Attributes:
        updates: In the order of the roster, which is sorted by site.
        current: The round's global adapter.
        previous: That of the round before: the terms' server momentum carries its last move on, if it is given.
    """

    updates: Sequence[Path]
    current: Path
    previous: Path | None = None


def aggregate(
    run: Run, accepted: Sequence[RosterEntry], sources: Sources, out: Path, threads: Threads
) -> tuple[AdapterFile, tuple[tuple[SiteName, float], ...]]:
    """Write the candidate of ``accepted`` to ``out``; returns its file and each site's weight.

    ``accepted`` is sorted by site, so the outcome does not depend on the order of arrival. ``threads`` combine modules.

    Raises:
        UpdateRefusedError: a file is not what was admitted.
        OSError: the disk failed.
    """
    assert run.spec is not None, "a round has an adapter specification"
    weights = strategy_of(run.terms).weigh(run.terms.aggregation, _contributions(accepted))
    with ExitStack() as stack:
        updates = [stack.enter_context(WeightsReader(path)) for path in sources.updates]
        current = stack.enter_context(WeightsReader(sources.current))
        previous = None if sources.previous is None else stack.enter_context(WeightsReader(sources.previous))
        candidate = _combine(run.terms, run.spec, (updates, weights), (current, previous), out, threads)
    return candidate, tuple((entry.site, weight) for entry, weight in zip(accepted, weights, strict=True))


def _contributions(accepted: Sequence[RosterEntry]) -> tuple[Contribution, ...]:
    return tuple(
        Contribution(
            num_examples=entry.update.num_examples,
            num_label_tokens=entry.update.num_label_tokens,
        )
        for entry in accepted
        if entry.update is not None
    )


def _combine(
    terms: Terms,
    spec: AdapterSpec,
    weighted: tuple[Sequence[WeightsReader], Sequence[float]],
    adapters: tuple[WeightsReader, WeightsReader | None],
    out: Path,
    threads: Threads,
) -> AdapterFile:
    strategy = strategy_of(terms)
    updates, weights = weighted
    current, previous = adapters

    def combined(module: str) -> tuple[str, Factors]:
        before = _pair(current, module)
        factors = strategy.combine([_factors(update, module, before) for update in updates], weights, before)
        if previous is not None:
            factors = carry_on(factors, before, _pair(previous, module), terms.aggregation.server_momentum)
        return module, factors

    # A module's A and B stand next to each other (`common.adapter.check_spec`): that is how the file is written.
    modules = [name.removesuffix(A_SUFFIX) for name in spec.names[::2]]
    largest = max(2 * tensor.parameters for tensor in spec.tensors) * _FLOAT32_BYTES * len(updates)
    at_once = max(1, min(_AT_ONCE, _HELD_BYTES // largest))
    with (
        WeightsWriter(out, spec.tensors, spec.dtype) as writer,
        closing(_in_order(threads, combined, modules, at_once)) as results,
    ):
        for module, factors in results:
            writer.write(module + A_SUFFIX, factors.a)
            writer.write(module + B_SUFFIX, factors.b)
    return AdapterFile(digest=writer.digest, size_bytes=writer.size_bytes)


def _in_order(threads: Threads, work: Callable[[T], U], items: Sequence[T], at_once: int) -> Generator[U, None, None]:
    """What ``work`` makes of each item, ``at_once`` of them under way or in line; none is once it is closed."""
    waiting: deque[Pending[U]] = deque()
    try:
        for item in items:
            if len(waiting) == at_once:
                yield waiting.popleft().result()
            waiting.append(threads.submit(work, item))
        while waiting:
            yield waiting.popleft().result()
    finally:
        for pending in waiting:
            if not pending.cancel():
                with suppress(Exception):
                    pending.result()


def _pair(adapter: WeightsReader, module: str) -> Factors:
    return Factors(a=adapter.tensor(module + A_SUFFIX), b=adapter.tensor(module + B_SUFFIX))


def _factors(update: WeightsReader, module: str, before: Factors) -> Factors:
    """The module's pair in ``update``; a factor that did not travel (admission saw to it) is as it was before."""
    a, b = module + A_SUFFIX, module + B_SUFFIX
    return Factors(
        a=update.tensor(a) if a in update else before.a,
        b=update.tensor(b) if b in update else before.b,
    )

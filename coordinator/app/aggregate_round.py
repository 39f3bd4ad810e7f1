"""Combines a round's updates into a candidate, module by module, so that memory does not grow with the adapter.

It reads and writes files by position and decides nothing: the strategy weighs and combines. Runs in a thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import reduce
from pathlib import Path

from common.adapter import A_SUFFIX, B_SUFFIX
from common.ids import SiteName
from common.weights_io import WeightsReader, WeightsWriter
from coordinator.domain.aggregation import strategy_of
from coordinator.domain.aggregation.geometry import added, geometry_of_module
from coordinator.domain.aggregation.server_momentum import carry_on
from coordinator.domain.aggregation.strategy import Contribution, Factors, Geometry, Need
from coordinator.domain.values import AdapterFile, RosterEntry, Run


def aggregate(
    run: Run,
    accepted: Sequence[RosterEntry],
    update_paths: Sequence[Path],
    global_path: Path,
    out: Path,
    previous_path: Path | None = None,
) -> tuple[AdapterFile, tuple[tuple[SiteName, float], ...]]:
    """Write the candidate of ``accepted`` to ``out``; returns its file and each site's weight.

    ``accepted`` is sorted by site, so the outcome does not depend on the order of arrival; ``update_paths`` are the
    files of their updates, in the same order. ``previous_path`` is the global adapter of the round before: the terms'
    server momentum carries its last move on, if it is given.

    Raises:
        UpdateRefusedError: a file is not what was admitted.
        OSError: the disk failed.
    """
    assert run.spec is not None, "a round has an adapter specification"
    strategy = strategy_of(run.terms)
    # A module's A and B stand next to each other (`common.adapter.check_spec`): that is how the file is written.
    modules = [name.removesuffix(A_SUFFIX) for name in run.spec.names[::2]]
    with ExitStack() as stack:
        updates = [stack.enter_context(WeightsReader(path)) for path in update_paths]
        current = stack.enter_context(WeightsReader(global_path))
        previous = None if previous_path is None else stack.enter_context(WeightsReader(previous_path))
        geometry = _geometry(modules, updates, current) if Need.GEOMETRY in strategy.needs else None
        weights = strategy.weigh(_contributions(accepted), geometry)
        writer = stack.enter_context(WeightsWriter(out, run.spec.tensors, run.spec.dtype))
        for module in modules:
            before = _pair(current, module)
            combined = strategy.combine(_pairs(module, updates, before), weights, before)
            if previous is not None:
                momentum = run.terms.aggregation.server_momentum
                combined = carry_on(combined, before, _pair(previous, module), momentum)
            writer.write(module + A_SUFFIX, combined.a)
            writer.write(module + B_SUFFIX, combined.b)
    candidate = AdapterFile(digest=writer.digest, size_bytes=writer.size_bytes)
    return candidate, tuple((entry.site, weight) for entry, weight in zip(accepted, weights, strict=True))


def _geometry(modules: Sequence[str], updates: Sequence[WeightsReader], current: WeightsReader) -> Geometry:
    """A first pass over all files."""
    return reduce(added, (_geometry_of(module, updates, _pair(current, module)) for module in modules))


def _geometry_of(module: str, updates: Sequence[WeightsReader], before: Factors) -> Geometry:
    return geometry_of_module(_pairs(module, updates, before), before)


def _contributions(accepted: Sequence[RosterEntry]) -> tuple[Contribution, ...]:
    return tuple(
        Contribution(
            num_examples=entry.update.num_examples,
            num_label_tokens=entry.update.num_label_tokens,
            validation_loss=None if entry.scores is None else entry.scores.mean_loss,
        )
        for entry in accepted
        if entry.update is not None
    )


def _pairs(module: str, updates: Sequence[WeightsReader], before: Factors) -> list[Factors]:
    """The module's pair of each update; a factor that did not travel (admission saw to it) is the global adapter's."""
    a, b = module + A_SUFFIX, module + B_SUFFIX
    return [
        Factors(a=update.tensor(a) if a in update else before.a, b=update.tensor(b) if b in update else before.b)
        for update in updates
    ]


def _pair(adapter: WeightsReader, module: str) -> Factors:
    return Factors(a=adapter.tensor(module + A_SUFFIX), b=adapter.tensor(module + B_SUFFIX))

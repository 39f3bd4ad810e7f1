"""Combines a round's updates into a candidate, module by module, so that memory does not grow with the adapter.

It reads and writes files by position and decides nothing: the strategy weighs and combines. Runs in a thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import reduce
from pathlib import Path

from common.adapter import A_SUFFIX, B_SUFFIX, AdapterSpec, TensorSpec, WireDtype
from common.ids import SiteName
from common.weights_io import WeightsReader, WeightsWriter
from coordinator.domain.aggregation import strategy_of
from coordinator.domain.aggregation.geometry import added, geometry_of_module
from coordinator.domain.aggregation.ranks import at_scale_of
from coordinator.domain.aggregation.server_momentum import carry_on
from coordinator.domain.aggregation.strategy import (
    Factors,
    Geometry,
    Matrix,
    Need,
    StatefulStrategy,
)
from coordinator.domain.contributions import contributions
from coordinator.domain.values import AdapterFile, RosterEntry, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFiles:
    """What a round is aggregated from.

    Attributes:
        updates: Files of the accepted updates, in the order of their sites.
        current: The global adapter.
        previous: The global adapter of the round before, when the terms' server momentum carries its move on.
        state: What the strategy kept beside ``current``, if it did.
    """

    updates: Sequence[Path]
    current: Path
    previous: Path | None = None
    state: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """What came of it: the candidate, each site's weight, and what the strategy keeps, if it keeps anything."""

    candidate: AdapterFile
    weights: tuple[tuple[SiteName, float], ...]
    state: AdapterFile | None = None


def weigh(run: Run, accepted: Sequence[RosterEntry], files: RoundFiles) -> tuple[float, ...]:
    """What each of ``accepted`` weighs; for a strategy that weighs by geometry all files are read once.

    Raises:
        UpdateRefusedError: a file is not what was admitted.
        OSError: the disk failed.
    """
    assert run.spec is not None, "a round has an adapter specification"
    strategy, geometry = strategy_of(run.terms), None
    if Need.GEOMETRY in strategy.needs:
        with ExitStack() as stack:
            updates = [stack.enter_context(WeightsReader(path)) for path in files.updates]
            current = stack.enter_context(WeightsReader(files.current))
            geometry = _geometry(_modules(run.spec), updates, current, run.spec.lora_rank)
    return strategy.weigh(contributions(accepted), geometry)


def aggregate(
    run: Run,
    accepted: Sequence[RosterEntry],
    files: RoundFiles,
    out: Path,
    state_out: Path | None = None,
    weights: Sequence[float] | None = None,
) -> Aggregate:
    """Write the candidate of ``accepted`` to ``out``, and what a strategy keeps to ``state_out``.

    ``accepted`` is sorted by site, so the outcome does not depend on the order of arrival. ``weights``: None for those
    by :func:`weigh`.

    Raises:
        UpdateRefusedError: a file is not what was admitted.
        OSError: the disk failed.
    """
    assert run.spec is not None, "a round has an adapter specification"
    strategy, rank = strategy_of(run.terms), run.spec.lora_rank
    weights = weigh(run, accepted, files) if weights is None else weights
    with ExitStack() as stack:
        updates = [stack.enter_context(WeightsReader(path)) for path in files.updates]
        current = stack.enter_context(WeightsReader(files.current))
        previous = None if files.previous is None else stack.enter_context(WeightsReader(files.previous))
        keeper = None
        if Need.OWN_STATE in strategy.needs:
            assert isinstance(strategy, StatefulStrategy), "a strategy that needs its own state has moments"
            assert state_out is not None, "a strategy that keeps something is given where to"
            keeper = stack.enter_context(_StateKeeper(strategy, run.spec, files.state, state_out))
        shape = run.spec.at_rank(run.terms.published_rank)
        writer = stack.enter_context(WeightsWriter(out, shape.tensors, shape.dtype))
        for module in _modules(run.spec):
            before = _pair(current, module, rank)
            combined = strategy.combine(_pairs(module, updates, before, rank), weights, before)
            if previous is not None:
                momentum = run.terms.aggregation.server_momentum
                combined = carry_on(combined, before, _pair(previous, module, rank), momentum)
            combined = at_scale_of(combined, rank, shape.lora_rank)
            for name, factor, was in ((A_SUFFIX, combined.a, before.a), (B_SUFFIX, combined.b, before.b)):
                writer.write(module + name, factor if keeper is None else keeper.advance(module + name, factor, was))
    return Aggregate(
        candidate=AdapterFile(digest=writer.digest, size_bytes=writer.size_bytes),
        weights=tuple((entry.site, weight) for entry, weight in zip(accepted, weights, strict=True)),
        state=None if keeper is None else keeper.file,
    )


class _StateKeeper:
    """Reads a strategy's moments of the round before and writes those of this one, factor by factor, in float32."""

    def __init__(self, strategy: StatefulStrategy, spec: AdapterSpec, before: Path | None, out: Path) -> None:
        self._strategy = strategy
        self._before = None if before is None else WeightsReader(before)
        tensors = [
            TensorSpec(name=f"{tensor.name}.{moment}", shape=tensor.shape)
            for tensor in spec.tensors
            for moment in strategy.moments
        ]
        self._writer = WeightsWriter(out, tensors, WireDtype.F32)

    def __enter__(self) -> _StateKeeper:
        self._writer.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._before is not None:
            self._before.close()
        self._writer.__exit__(*exception)  # type: ignore[arg-type]

    def advance(self, name: str, aggregate: Matrix, current: Matrix) -> Matrix:
        """The candidate's factor ``name``; its moments are written."""
        names = [f"{name}.{moment}" for moment in self._strategy.moments]
        before = None if self._before is None else [self._before.tensor(each) for each in names]
        factor, moments = self._strategy.advance(aggregate, current, before)
        for each, moment in zip(names, moments, strict=True):
            self._writer.write(each, moment)
        return factor

    @property
    def file(self) -> AdapterFile:
        """What was written, once it is whole."""
        return AdapterFile(digest=self._writer.digest, size_bytes=self._writer.size_bytes)


def _modules(spec: AdapterSpec) -> list[str]:
    """In the order of the file, in which a module's A and B stand side by side (`common.adapter.check_spec`)."""
    return [name.removesuffix(A_SUFFIX) for name in spec.names[::2]]


def _geometry(
    modules: Sequence[str], updates: Sequence[WeightsReader], current: WeightsReader, scale_rank: int
) -> Geometry:
    """A first pass over all files."""

    def of(module: str) -> Geometry:
        before = _pair(current, module, scale_rank)
        return geometry_of_module(_pairs(module, updates, before, scale_rank), before)

    return reduce(added, map(of, modules))


def _pairs(module: str, updates: Sequence[WeightsReader], before: Factors, scale_rank: int) -> list[Factors]:
    """The module's pair of each update; a factor that did not travel (admission saw to it) is the global adapter's."""
    a, b = module + A_SUFFIX, module + B_SUFFIX
    return [
        _pair(update, module, scale_rank)
        if a in update and b in update
        else Factors(a=update.tensor(a) if a in update else before.a, b=update.tensor(b) if b in update else before.b)
        for update in updates
    ]


def _pair(adapter: WeightsReader, module: str, scale_rank: int) -> Factors:
    """The module's pair, of whatever rank, at the scale of the run's rank."""
    pair = Factors(a=adapter.tensor(module + A_SUFFIX), b=adapter.tensor(module + B_SUFFIX))
    return at_scale_of(pair, pair.a.shape[0], scale_rank)

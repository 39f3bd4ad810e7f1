"""Combines a round's updates into a candidate, module by module, so that memory does not grow with the adapter.

It reads and writes files by position and decides nothing: the strategy weighs and combines. Runs in a thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from common.adapter import A_SUFFIX, B_SUFFIX, AdapterSpec
from common.ids import SiteName
from common.terms import Terms
from common.weights_io import WeightsReader, WeightsWriter
from coordinator.domain.aggregation import strategy_of
from coordinator.domain.aggregation.server_momentum import carry_on
from coordinator.domain.aggregation.strategy import Contribution, Factors
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
    weights = strategy_of(run.terms).weigh(run.terms.aggregation, _contributions(accepted))
    with ExitStack() as stack:
        updates = [stack.enter_context(WeightsReader(path)) for path in update_paths]
        current = stack.enter_context(WeightsReader(global_path))
        previous = None if previous_path is None else stack.enter_context(WeightsReader(previous_path))
        candidate = _combine(run.terms, run.spec, (updates, weights), (current, previous), out)
    return candidate, tuple((entry.site, weight) for entry, weight in zip(accepted, weights, strict=True))


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


def _combine(
    terms: Terms,
    spec: AdapterSpec,
    weighted: tuple[Sequence[WeightsReader], Sequence[float]],
    adapters: tuple[WeightsReader, WeightsReader | None],
    out: Path,
) -> AdapterFile:
    strategy = strategy_of(terms)
    updates, weights = weighted
    current, previous = adapters
    with WeightsWriter(out, spec.tensors, spec.dtype) as writer:
        # A module's A and B stand next to each other (`common.adapter.check_spec`): that is how the file is written.
        for module in (name.removesuffix(A_SUFFIX) for name in spec.names[::2]):
            before = _pair(current, module)
            combined = strategy.combine([_factors(update, module, before) for update in updates], weights, before)
            if previous is not None:
                combined = carry_on(combined, before, _pair(previous, module), terms.aggregation.server_momentum)
            writer.write(module + A_SUFFIX, combined.a)
            writer.write(module + B_SUFFIX, combined.b)
    return AdapterFile(digest=writer.digest, size_bytes=writer.size_bytes)


def _pair(adapter: WeightsReader, module: str) -> Factors:
    return Factors(a=adapter.tensor(module + A_SUFFIX), b=adapter.tensor(module + B_SUFFIX))


def _factors(update: WeightsReader, module: str, before: Factors) -> Factors:
    """The module's pair in ``update``; a factor that did not travel (admission saw to it) is as it was before."""
    a, b = module + A_SUFFIX, module + B_SUFFIX
    return Factors(
        a=update.tensor(a) if a in update else before.a,
        b=update.tensor(b) if b in update else before.b,
    )

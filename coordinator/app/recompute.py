"""Computes the aggregates of a release again, from the updates in it, with the run's own strategy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from common.adapter import A_SUFFIX, B_SUFFIX, WireDtype
from common.errors import FedMedError
from common.ids import Digest
from common.weights_io import WeightsReader, check_update
from coordinator.app.aggregate_round import RoundFiles, aggregate, weigh
from coordinator.app.cut_parts import write_part
from coordinator.app.perform_commands import moved_from
from coordinator.app.release_manifest import Manifest, update_path
from coordinator.domain.adapter_parts import cuts_of, part_of
from coordinator.domain.aggregation import strategy_of
from coordinator.domain.aggregation.geometry import product_distance, product_norm
from coordinator.domain.aggregation.strategy import Factors, Need
from coordinator.domain.kept_state import state_before
from coordinator.domain.values import AdapterFile, Round, Run
from coordinator.domain.verify import Finding, Problem

# How far the product B A of a module may be off, as a share of its Frobenius norm, where LAPACK and BLAS have a part in
# it: their last digits differ by machine. In bfloat16 such a digit can turn a number to the next one, 2^-8 away.
TOLERANCES = {WireDtype.F32: 1e-6, WireDtype.BF16: 2**-7}
# Of a weight; the last digits of an exponential differ by machine, too.
WEIGHT_TOLERANCE = 1e-12
LOOSE_WEIGHT_TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Recomputed:
    """The rounds that were computed again to the same adapter, and what is wrong with others."""

    rounds: tuple[int, ...] = ()
    findings: tuple[Finding, ...] = ()


def recompute(manifest: Manifest, folder: Path, scratch: Path) -> Recomputed:
    """Compute every round again whose updates are all in ``folder``; what a strategy keeps, in ``scratch``.

    Files and record were checked: each file has the digest that the record names.

    Raises:
        OSError: the disk failed.
    """
    run, rounds, findings = manifest.run, [], []
    places = {file.digest: file.path for file in manifest.files}
    listed = {file.path for file in manifest.files}
    for past in run.rounds:
        updates = [update_path(past.number, entry.site) for entry in past.accepted]
        files = _Files(
            updates=[folder / path for path in updates],
            adapters={digest: folder / path for digest, path in places.items()},
            scratch=scratch,
        )
        if not listed.issuperset(updates) or past.candidate is None or (read := files.of(run, past)) is None:
            continue
        if (problem := _difference(run, past, read, files)) is None:
            rounds.append(past.number)
            continue
        file, about = places[past.candidate.digest], f"round {past.number}"
        findings.append(Finding(problem=Problem.AGGREGATE_DIFFERS, file=file, about=about, detail=problem))
    return Recomputed(rounds=tuple(rounds), findings=tuple(findings))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """Where the files of a round are; ``adapters`` by digest."""

    updates: Sequence[Path]
    adapters: Mapping[Digest, Path]
    scratch: Path

    def of(self, run: Run, past: Round) -> RoundFiles | None:
        """What the round was aggregated from; None when not all of it is there."""
        moved, kept = moved_from(run, past), state_before(run, past)
        previous = None if moved is None else self.adapters.get(moved.digest)
        state = None if kept is None else self.state_path(kept[1])
        current = self.adapters.get(past.global_adapter.digest)
        if current is None or (moved is not None and previous is None) or (state is not None and not state.exists()):
            return None
        return RoundFiles(updates=self.updates, current=current, previous=previous, state=state)

    def state_path(self, state: AdapterFile) -> Path:
        """Where what a strategy kept is put once it was computed again."""
        return self.scratch / f"{state.digest.removeprefix('sha256:')}.state"


def _difference(run: Run, past: Round, read: RoundFiles, files: _Files) -> str | None:
    """What is otherwise when the round is computed again; None when nothing is."""
    assert run.spec is not None and past.candidate is not None, "the record was checked"
    out, state_out = files.scratch / "candidate", files.scratch / "state"
    try:
        _check_content(run, past, read)
        if problem := _parts_difference(run, past, files):
            return problem
        if problem := _weights_difference(run, past, read):
            return problem
        # By the weights of the record, which are those but for last digits that differ by machine.
        weights = [entry.weight for entry in past.accepted]
        again = aggregate(run, past.accepted, read, out, state_out, weights)
    except (FedMedError, ValueError, np.linalg.LinAlgError) as error:
        return f"expected updates that can be combined, got {error}"
    if past.state != again.state and strategy_of(run.terms).is_elementwise:
        return f"expected the state {again.state and again.state.digest}, got {past.state and past.state.digest}"
    if past.state is not None:
        state_out.replace(files.state_path(past.state))
    if again.candidate == past.candidate:
        return None
    published = files.adapters[past.candidate.digest]
    if strategy_of(run.terms).is_elementwise:
        return f"expected {again.candidate.digest}, which the updates give, got {past.candidate.digest}"
    apart, allowed = _apart(run, published, out), TOLERANCES[run.spec.dtype]
    return None if apart <= allowed else f"expected products within {allowed:g} of what the updates give, got {apart:g}"


def _check_content(run: Run, past: Round, read: RoundFiles) -> None:
    """Check that every file has the tensors that admission would have asked for.

    Raises:
        UpdateRefusedError: expected against got.
    """
    assert run.spec is not None, "the record was checked"
    strategy, spec = strategy_of(run.terms), run.spec
    wanted = [
        spec.at_rank(entry.lora_rank or spec.lora_rank).tensors_of(strategy.plan(past.number, entry.site).uploaded)
        for entry in past.accepted
    ]
    checks = [*zip(read.updates, wanted, strict=True), (read.current, run.spec_of(past.global_adapter).tensors)]
    moved = moved_from(run, past)
    if moved is not None and read.previous is not None:
        checks.append((read.previous, run.spec_of(moved).tensors))
    for path, tensors in checks:
        with WeightsReader(path) as reader:
            check_update(reader, tensors, spec.dtype)


def _parts_difference(run: Run, past: Round, files: _Files) -> str | None:
    """Whether sites that trained at other ranks were given what the adapter has at those."""
    for cut in cuts_of(run, past):
        part, source = part_of(past, cut), files.adapters.get(cut.source.digest)
        if part is None or source is None:
            continue
        again = write_part(source, cut, files.scratch / "part")
        if again != part.file:
            return f"expected ranks {cut.start} to {cut.stop} to be {again.digest}, got {part.file.digest}"
    return None


def _weights_difference(run: Run, past: Round, read: RoundFiles) -> str | None:
    is_by_geometry = Need.GEOMETRY in strategy_of(run.terms).needs
    tolerance = LOOSE_WEIGHT_TOLERANCE if is_by_geometry else WEIGHT_TOLERANCE
    for entry, weight in zip(past.accepted, weigh(run, past.accepted, read), strict=True):
        if not math.isclose(entry.weight, weight, rel_tol=tolerance, abs_tol=tolerance):
            return f"expected a weight of {weight!r} for {entry.site}, got {entry.weight!r}"
    return None


def _apart(run: Run, published: Path, again: Path) -> float:
    """The largest distance of a module's product from that of the other file, as a share of its Frobenius norm."""
    assert run.spec is not None, "the record was checked"
    largest = 0.0
    with WeightsReader(published) as one, WeightsReader(again) as other:
        for module in (name.removesuffix(A_SUFFIX) for name in run.spec.names[::2]):
            mine, theirs = (
                Factors(a=each.tensor(module + A_SUFFIX), b=each.tensor(module + B_SUFFIX)) for each in (one, other)
            )
            norm, apart = product_norm(theirs), product_distance(mine, theirs)
            largest = max(largest, apart / norm if norm else (0.0 if apart == 0 else math.inf))
    return largest

"""What of an adapter a site trains and what it only adds, by its rank and the strategy's plan. Cuts no file itself.

The ranks of a pair are independent of each other: B A is the sum of B[:, i] A[i, :]. So any of them make an adapter of
their own, and what one leaves out another can hold.
"""

from __future__ import annotations

from dataclasses import dataclass

from common.adapter import AdapterSpec
from common.ids import AssignmentId
from coordinator.domain.aggregation import strategy_of
from coordinator.domain.cohort import part_id
from coordinator.domain.values import AdapterFile, AdapterPart, RosterEntry, Round, Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Cut:
    """Ranks ``start`` to ``stop`` of the adapter ``source``, whose shape is ``spec``."""

    source: AdapterFile
    spec: AdapterSpec
    start: int
    stop: int

    @property
    def shape(self) -> AdapterSpec:
        """The shape of those ranks."""
        return self.spec.at_rank(self.stop - self.start)

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left out."""
        return self.stop - self.start == self.spec.lora_rank


def cut_to_train(run: Run, current: Round, entry: RosterEntry) -> Cut:
    """What the site's training starts from: the first ranks of the global adapter, or of the first one."""
    assert run.spec is not None and run.first_adapter is not None, "a round has a first adapter"
    starts_fresh = strategy_of(run.terms).plan(current.number, entry.site).starts_fresh
    source = run.first_adapter if starts_fresh else current.global_adapter
    return Cut(source=source, spec=run.spec_of(source), start=0, stop=entry.lora_rank or run.spec.lora_rank)


def cut_beside(run: Run, current: Round, entry: RosterEntry) -> Cut | None:
    """What is added to it and stays as it is: the rest of the global adapter, where the strategy says so."""
    assert run.spec is not None, "a round has a first adapter"
    plan = strategy_of(run.terms).plan(current.number, entry.site)
    spec = run.spec_of(current.global_adapter)
    trained = 0 if plan.starts_fresh else entry.lora_rank or run.spec.lora_rank
    is_zero = current.global_adapter == run.first_adapter and plan.starts_fresh  # its B is
    if not plan.keeps_rest or trained == spec.lora_rank or is_zero:
        return None
    return Cut(source=current.global_adapter, spec=spec, start=trained, stop=spec.lora_rank)


def cuts_of(run: Run, current: Round) -> tuple[Cut, ...]:
    """Every part that the sites of a round need and that is no whole adapter, each once."""
    found = (each(run, current, entry) for entry in current.roster for each in (cut_to_train, cut_beside))
    return tuple(dict.fromkeys(cut for cut in found if cut is not None and not cut.is_whole))


def id_of(run: Run, current: Round, cut: Cut) -> AssignmentId:
    """Under which id the part is kept."""
    return part_id(run.run_id, current.number, cut.source.digest, cut.start, cut.stop)


def part_of(current: Round, cut: Cut) -> AdapterPart | None:
    """The part that was cut so; None while it is not there."""
    wanted = (cut.source.digest, cut.start, cut.stop)
    return next((part for part in current.parts if (part.source, part.start, part.stop) == wanted), None)


def file_of(current: Round, cut: Cut) -> AdapterFile | None:
    """The file with those ranks: the adapter itself, or a part of it; None while that is not there."""
    if cut.is_whole:
        return cut.source
    part = part_of(current, cut)
    return None if part is None else part.file

"""Carries the rounds of an encoder to their end: every site trains, the mean is what the next round begins with.

No coordinator has a part in it: neither admission nor deadlines, which play no part in the lab, nor a strategy.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.adapter import FactorSet, WireDtype
from common.terms import BaseModelTerms, LoraTerms, Terms
from lab.cells import Adapter, Cell
from lab.corpora import NoteFile
from lab.encoder.averaging import Means, Share
from lab.findings import Trained
from lab.rounds import Machine, carry_all
from lab.slots import Priority
from lab.workshop import Workshop
from site_agent.orders import BaseModelSource, TrainOrder, TrainResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Rounds to carry out.

    Attributes:
        arm, seed: For the rows of what was trained, and for people.
        notes: Of each site that takes part.
        terms: What they say of training, of entities and of the number of rounds counts.
    """

    arm: str
    seed: int
    terms: Terms
    notes: Mapping[str, tuple[NoteFile, ...]]
    priority: Priority = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What came of a plan: the parameters after each round, and what each site said of its training."""

    terms: Terms
    after: Sequence[Adapter]
    trained: Sequence[Trained]


@dataclass(frozen=True, slots=True, kw_only=True)
class Works:
    """Where encoders are trained and combined, and of what base."""

    workshop: Workshop
    means: Means
    machine: Machine
    base: BaseModelTerms

    @property
    def source(self) -> BaseModelSource:
        """As an order names it."""
        return BaseModelSource(
            location=self.machine.base_model,
            expected=self.base,
            device=self.machine.device,
            threads=self.machine.threads,
        )


async def carry_out(plan: Plan, works: Works) -> Course:
    """Carry the rounds out.

    Raises:
        FedMedError: a trainer failed.
        OutOfTimeError: not all was done.
    """
    after: list[Adapter] = []
    rows: list[Trained] = []
    for number in range(1, plan.terms.rounds.count + 1):
        start = after[-1] if after else None
        sites = await carry_all([_train(plan, works, name, number, start) for name in sorted(plan.notes)])
        shares = [Share(parameters=site.made, examples=site.result.num_examples) for site in sites]
        after.append(await asyncio.to_thread(works.means.mean, shares))
        total = sum(share.examples for share in shares)
        rows += [_row(plan, number, start, site, site.result.num_examples / total) for site in sites]
    return Course(terms=plan.terms, after=after, trained=rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Site:
    name: str
    result: TrainResult
    made: Adapter


async def _train(plan: Plan, works: Works, site: str, number: int, start: Adapter | None) -> _Site:
    """One site in one round. In the first, each begins with the base and the output layer that the seed gives."""
    notes = plan.notes[site]
    order = TrainOrder(
        base_model=works.source,
        lora=LoraTerms(),
        task=plan.terms.task,
        training=plan.terms.training,
        data_files=tuple(str(note.path) for note in notes),
        trained=FactorSet.A_AND_B,
        uploaded=FactorSet.A_AND_B,
        round_number=number,
        seed=plan.terms.training.seed,
        wire_dtype=WireDtype.F32,
    )
    says = f"{plan.arm}, seed {plan.seed}, round {number}, {site}"
    done = await works.workshop.perform(Cell(order=order, notes=notes, adapter=start, says=says), plan.priority)
    assert isinstance(done.result, TrainResult) and done.made is not None
    return _Site(name=site, result=done.result, made=done.made)


def _row(plan: Plan, number: int, start: Adapter | None, site: _Site, weight: float) -> Trained:
    return Trained(
        arm=plan.arm,
        seed=plan.seed,
        site=site.name,
        round_number=number,
        mean_loss=site.result.mean_loss,
        num_examples=site.result.num_examples,
        num_label_tokens=site.result.num_label_tokens,
        steps=site.result.steps,
        seconds=site.result.seconds,
        weight=weight,
        validation_loss=None,
        upload_bytes=site.made.file.size_bytes,
        download_bytes=start.file.size_bytes if start else 0,
        full_model_bytes=site.made.file.size_bytes,
        is_alone=len(plan.notes) == 1,
    )

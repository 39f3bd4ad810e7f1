"""Which run an arm's model is of: its own, or of several the one with the least loss on the validation set."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from lab.experiment import Arm, Experiment
from lab.rounds import carry_all

_Run = TypeVar("_Run")


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice(Generic[_Run]):
    """The run that an arm's model is of, and what to say of how it was chosen."""

    run: _Run
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices(Generic[_Run]):
    """The runs of an experiment's arms, each carried out once, whoever asks.

    Attributes:
        carry_out: Makes the run of an arm that has one of its own.
        validation_loss: Of the model of a run; asked on behalf of the arm that chooses.
    """

    experiment: Experiment
    carry_out: Callable[[Arm, int], Awaitable[_Run]]
    validation_loss: Callable[[_Run, Arm, int], Awaitable[float]]
    _asked: dict[tuple[str, int], asyncio.Task[Choice[_Run]]] = field(default_factory=dict)

    async def of(self, arm: Arm, seed: int) -> Choice[_Run]:
        """The choice of an arm with a seed; raises as ``carry_out``."""
        key = (arm.name, seed)
        if key not in self._asked:
            self._asked[key] = asyncio.create_task(self._choose(arm, seed))
        return await asyncio.shield(self._asked[key])

    async def _choose(self, arm: Arm, seed: int) -> Choice[_Run]:
        if arm.kind != "best_of":
            return Choice(run=await self.carry_out(arm, seed))
        choices = await carry_all([self.of(self.experiment.arm(name), seed) for name in arm.of])
        losses = await carry_all([self.validation_loss(choice.run, arm, seed) for choice in choices])
        best = losses.index(min(losses))
        told = ", ".join(f"{name} {loss:.4f}" for name, loss in zip(arm.of, losses, strict=True))
        note = f"{arm.name}, seed {seed}: chose {arm.of[best]} by loss on the validation set ({told})"
        return Choice(run=choices[best].run, notes=(note,))

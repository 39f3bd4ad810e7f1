"""Plays all arms of an experiment with all seeds, and gathers what came of them; what cannot be had is told."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from pathlib import Path

from common.errors import FedMedError
from lab.arms import FROM_NOTHING, Bench, Played
from lab.encoder.arms import EncoderBench
from lab.findings import Findings, Missing
from lab.slots import OutOfTimeError
from site_agent.trainer.base_model_files import resolve_base_model

_NOT_DONE = "not done yet"


async def play_all(bench: Bench, encoders: EncoderBench | None = None) -> Findings:
    """Everything at once; the workshops say in which order the work is done.

    ``encoders`` play the arms whose model is an encoder; without them, those arms are refused.
    """
    encoders = encoders or EncoderBench(bench=bench, works=None, missing="encoder: expected one, got none")
    asked = list(_asked(bench, encoders))
    outcomes = await asyncio.gather(*(_outcome(arm, seed, work) for arm, seed, work in asked))
    played = [one for one in outcomes if isinstance(one, Played)]
    return Findings(
        scored=[row for one in played for row in one.scored],
        trained=[row for one in played for row in one.trained],
        notes=[note for one in played for note in one.notes],
        missing=[one for one in outcomes if isinstance(one, Missing)],
        full_model_bytes=_model_bytes(resolve_base_model(bench.machine.base_model)),
    )


def _asked(bench: Bench, encoders: EncoderBench) -> Iterator[tuple[str, int, Awaitable[Played]]]:
    experiment = bench.experiment
    for arm in experiment.arms:
        for seed in experiment.seeds_of(arm):
            work = encoders.play(arm, seed) if arm.model == "encoder" else bench.play(arm, seed)
            yield arm.name, seed, work
    if (new_site := experiment.new_site) is None:
        return
    for start in (FROM_NOTHING, *new_site.continues):
        arm = experiment.arm(new_site.continues[0] if start == FROM_NOTHING else start)
        for seed in new_site.seeds or experiment.seeds_of(arm):
            for examples in new_site.examples:
                name = f"new site, {examples} examples, from {start}"
                yield name, seed, bench.play_new_site(new_site, seed, examples, start)


async def _outcome(arm: str, seed: int, work: Awaitable[Played]) -> Played | Missing:
    try:
        return await work
    except OutOfTimeError:
        return Missing(arm=arm, seed=seed, why=_NOT_DONE)
    except (FedMedError, OSError) as error:
        return Missing(arm=arm, seed=seed, why=str(error))


def failures(findings: Findings) -> list[Missing]:
    """What is missing for another reason than time."""
    return [one for one in findings.missing if one.why != _NOT_DONE]


def _model_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))

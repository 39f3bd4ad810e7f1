"""Plays all arms of an experiment with all seeds, and gathers what came of them; what cannot be had is told."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from common.errors import FedMedError
from common.ids import Digest
from lab.arms import Bench
from lab.asking import Asked, all_asked
from lab.encoder.arms import EncoderBench
from lab.findings import Findings, Kept, Missing
from lab.machine import this_machine
from lab.slots import OutOfTimeError
from site_agent.trainer.base_model_files import resolve_base_model

_NOT_DONE = "not done yet"


async def play_all(
    bench: Bench, encoders: EncoderBench | None = None, known: Mapping[Digest, Kept] | None = None
) -> Findings:
    """Everything at once; the workshops say in which order the work is done. What is ``known`` is not done again.

    ``encoders`` play the arms whose model is an encoder; without them, those arms are refused.

    Raises:
        InputInvalidError: as `lab.asking.all_asked`, before anything is played.
    """
    encoders = encoders or EncoderBench(bench=bench, works=None, missing="encoder: expected one, got none")
    asked = list(all_asked(bench, encoders))
    outcomes = await asyncio.gather(*(_outcome(one, known or {}) for one in asked))
    return Findings(
        kept=[one for one in outcomes if isinstance(one, Kept)],
        missing=[one for one in outcomes if isinstance(one, Missing)],
        full_model_bytes=_model_bytes(resolve_base_model(bench.machine.base_model)),
    )


async def _outcome(asked: Asked, known: Mapping[Digest, Kept]) -> Kept | Missing:
    if asked.digest in known:
        return known[asked.digest]
    try:
        played = await asked.play()
    except OutOfTimeError:
        return Missing(arm=asked.name, seed=asked.seed, why=_NOT_DONE)
    except (FedMedError, OSError) as error:
        return Missing(arm=asked.name, seed=asked.seed, why=str(error))
    return Kept(name=asked.name, seed=asked.seed, asked=asked.digest, made_by=this_machine(), played=played)


def failures(findings: Findings) -> list[Missing]:
    """What is missing for another reason than time."""
    return [one for one in findings.missing if one.why != _NOT_DONE]


def _model_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))

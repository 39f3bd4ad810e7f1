"""Where a round of training stands, on disk: a killed trainer goes on from there, to the same factors bit for bit.

A checkpoint is one safetensors file (no pickle): factors, optimiser and random numbers as tensors, counts as JSON in
its metadata. It belongs to one course of training by its key, and means nothing to another. It trains nothing.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Optimizer

from common.files import replacing
from common.logging import describe_error
from site_agent.trainer.order_files import StoppedError

_FACTORS, _OPTIMIZER, _RANDOM = "factors.", "optimizer.", "random."


@dataclass(slots=True, kw_only=True)
class Tally:
    """What a round of training has come to so far.

    Attributes:
        step: Optimiser steps done, over all epochs.
        loss_sum, labels: Over the epoch at hand: of the losses of all label tokens (nats), and how many they are.
        seconds: Of training, over all lives of the trainer.
    """

    step: int = 0
    tokens: int = 0
    padding: int = 0
    loss_sum: float = 0.0
    labels: int = 0
    seconds: float = 0.0


_TALLY = TypeAdapter(Tally)


class CheckpointFile:
    """The one checkpoint of an order, replaced whole every ``every_seconds`` seconds, and when it ``must_stop``."""

    def __init__(
        self,
        path: Path,
        key: str,
        every_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        must_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._path = path
        self._key = key
        self._every_seconds = every_seconds
        self._clock = clock
        self._must_stop = must_stop
        self._kept_at = clock()

    def tend(self, factors: Mapping[str, nn.Parameter], optimizer: Optimizer, tally: Tally) -> None:
        """Write down where training stands when it would be a pity to lose what was done since the last time.

        Raises:
            StoppedError: Training must end here; it was written down.
        """
        must_stop = self._must_stop()
        if must_stop or self._clock() - self._kept_at >= self._every_seconds:
            self.keep(factors, optimizer, tally)
        if must_stop:
            raise StoppedError

    def keep(self, factors: Mapping[str, nn.Parameter], optimizer: Optimizer, tally: Tally) -> None:
        """Write down where training stands; a disk that does not take it costs the checkpoint, not the training."""
        self._kept_at = self._clock()
        try:
            self._write(factors, optimizer, tally)
        except OSError as error:
            with suppress(OSError):  # what is said here goes to the same disk
                sys.stderr.write(json.dumps({"event": "checkpoint_failed", **describe_error(error)}) + "\n")
                sys.stderr.flush()

    def _write(self, factors: Mapping[str, nn.Parameter], optimizer: Optimizer, tally: Tally) -> None:
        tensors = {_FACTORS + name: value.detach() for name, value in factors.items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"{_OPTIMIZER}{index}.{name}": value for name, value in state.items()}
        tensors |= {_RANDOM + name: state for name, state in _random_states(factors).items()}
        metadata = {"key": self._key, "tally": json.dumps(asdict(tally))}
        with replacing(self._path, mode=0o600) as file:
            file.write(save({name: value.cpu().contiguous() for name, value in tensors.items()}, metadata))

    def restore(self, factors: Mapping[str, nn.Parameter], optimizer: Optimizer) -> Tally:
        """Put factors, optimiser and random numbers back to where they stood; a new tally if nothing fits."""
        try:
            with safe_open(self._path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != self._key:
                    return Tally()
                tally = _TALLY.validate_json(metadata["tally"])
                # Copies: the file's own pages are mapped, and would hold the disk's space when it is replaced.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - no mapping
        except (FileNotFoundError, SafetensorError, KeyError, ValidationError):
            return Tally()
        with torch.no_grad():
            for name, parameter in factors.items():
                parameter.copy_(tensors[_FACTORS + name])
        _restore_optimizer(optimizer, tensors)
        _restore_random(factors, tensors)
        return tally


def _restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    states: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith(_OPTIMIZER):
            index, _, key = name.removeprefix(_OPTIMIZER).partition(".")
            states.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(optimizer.state_dict() | {"state": states})


def _random_states(factors: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Dropout draws from the generator of the device, and some of torch's own code from the CPU's."""
    states = {"cpu": torch.get_rng_state()}
    device = next(iter(factors.values())).device
    return states if device.type == "cpu" else {**states, "cuda": torch.cuda.get_rng_state(device)}


def _restore_random(factors: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(tensors[_RANDOM + "cpu"])
    if _RANDOM + "cuda" in tensors:
        torch.cuda.set_rng_state(tensors[_RANDOM + "cuda"], next(iter(factors.values())).device)

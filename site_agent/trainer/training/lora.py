"""LoRA factors on a base model, by peft and under peft's saved names. It neither trains nor reads files."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from common.adapter import A_SUFFIX, AdapterSpec, TensorSpec, WireDtype, check_spec
from common.errors import InputInvalidError, Reason
from common.terms import LoraTerms
from site_agent.trainer.training.base_model import load_config

# peft puts the name of the adapter into its parameters' names, and takes it out of the names that it saves.
_IN_MEMORY, _SAVED = ".default.weight", ".weight"


def attach_adapter(model: PreTrainedModel, lora: LoraTerms) -> PeftModel:
    """Put LoRA factors on every target module; they are fp32 whatever the base is, and B is zero.

    Raises:
        InputInvalidError: SETTINGS_UNSUPPORTED, when the model lacks a target module.
    """
    present = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    missing = sorted(set(lora.target_modules) - present)
    if missing:
        raise InputInvalidError(
            Reason.SETTINGS_UNSUPPORTED,
            f"lora.target_modules: expected modules of the base model, got {', '.join(missing)[:200]!r}",
        )
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.lora_rank,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=list(lora.target_modules),
        bias="none",
    )
    return get_peft_model(model, config)  # type: ignore[no-any-return]


def adapter_parameters(model: PeftModel) -> dict[str, nn.Parameter]:
    """The factors by their saved names, sorted."""
    found = ((name, value) for name, value in model.named_parameters() if name.endswith(_IN_MEMORY))
    return dict(sorted((name.removesuffix(_IN_MEMORY) + _SAVED, value) for name, value in found))


def set_adapter(model: PeftModel, tensors: Mapping[str, Tensor]) -> None:
    """Give the factors these values.

    Raises:
        InputInvalidError: SETTINGS_UNSUPPORTED, when names or shapes are not those of the factors.
    """
    parameters = adapter_parameters(model)
    if parameters.keys() != tensors.keys():
        differing = len(parameters.keys() ^ tensors.keys())
        raise InputInvalidError(
            Reason.SETTINGS_UNSUPPORTED,
            f"adapter: expected {len(parameters)} tensors of the base model, got {differing} names that differ",
        )
    for name, parameter in parameters.items():
        if parameter.shape != tensors[name].shape:
            raise InputInvalidError(
                Reason.SETTINGS_UNSUPPORTED,
                f"adapter {name}: expected {list(parameter.shape)}, got {list(tensors[name].shape)}",
            )
        with torch.no_grad():
            parameter.copy_(tensors[name])


def adapter_spec(folder: Path, lora: LoraTerms, dtype: WireDtype) -> AdapterSpec:
    """The names and shapes of the factors for the base model in ``folder``, whose weights are not loaded.

    Raises:
        InputInvalidError: BASE_MODEL_UNREADABLE or SETTINGS_UNSUPPORTED.
    """
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(load_config(folder), trust_remote_code=False)
        parameters = adapter_parameters(attach_adapter(skeleton, lora))
    return check_spec(
        AdapterSpec(
            lora_rank=lora.lora_rank,
            lora_alpha=lora.lora_alpha,
            target_modules=lora.target_modules,
            dtype=dtype,
            tensors=tuple(TensorSpec(name=name, shape=tuple(one.shape)) for name, one in parameters.items()),
        )
    )


def initial_adapter(spec: AdapterSpec, seed: int) -> dict[str, Tensor]:
    """A(0) uniform in +-1/sqrt(in_features) and B(0) zero, in fp32.

    That is peft's own distribution (Kaiming uniform with a = sqrt(5)), but a function of ``seed`` and the tensor's
    name alone: neither the device nor the order of modules changes it, and numpy's Philox counts the same everywhere.
    """
    return {
        tensor.name: _initial_a(tensor, seed) if tensor.name.endswith(A_SUFFIX) else torch.zeros(tensor.shape)
        for tensor in spec.tensors
    }


def _initial_a(tensor: TensorSpec, seed: int) -> Tensor:
    key = hashlib.sha256(f"{seed}:{tensor.name}".encode()).digest()[:16]
    generator = np.random.Generator(np.random.Philox(key=int.from_bytes(key, "little")))
    bound = 1 / math.sqrt(tensor.shape[1])
    return torch.from_numpy((generator.random(tensor.shape, dtype=np.float32) * 2 - 1) * np.float32(bound))

"""LoRA factors on a base model, by peft and under peft's saved names. It neither trains nor reads files."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from common.adapter import A_SUFFIX, B_SUFFIX, AdapterSpec, FactorSet, TensorSpec, WireDtype, check_spec
from common.errors import InputInvalidError, Reason
from common.terms import LoraTerms
from site_agent.trainer.training.base_model import LoadedModel, load_config

# peft puts the name of the adapter into its parameters' names, and takes it out of the names that it saves.
_IN_MEMORY, _SAVED = ".default.weight", ".weight"
_SIDE = "side"


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
    return get_peft_model(model, _config(lora))


def _config(lora: LoraTerms) -> LoraConfig:
    return LoraConfig(
        task_type="CAUSAL_LM",
        r=lora.lora_rank,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=list(lora.target_modules),
        bias="none",
    )


def add_beside(model: PeftModel, lora: LoraTerms, tensors: Mapping[str, Tensor], lora_rank: int) -> None:
    """Add an adapter of ``lora_rank`` to what the model computes, which training does not change.

    Raises:
        InputInvalidError: SETTINGS_UNSUPPORTED, when names or shapes are not those of its factors.
    """
    model.add_adapter(_SIDE, _config(replace(lora, lora_rank=lora_rank, lora_dropout=0.0)))
    # Of the two, those that are trained are told apart by name later on: `adapter_parameters` knows one only.
    model.base_model.set_adapter(["default", _SIDE])  # type: ignore[operator]
    ending = f".{_SIDE}.weight"
    parameters = {
        name.removesuffix(ending) + _SAVED: value for name, value in model.named_parameters() if name.endswith(ending)
    }
    _set(parameters, tensors)
    for parameter in parameters.values():
        parameter.requires_grad_(False)


def adapter_parameters(model: PeftModel) -> dict[str, nn.Parameter]:
    """The factors by their saved names, sorted."""
    found = ((name, value) for name, value in model.named_parameters() if name.endswith(_IN_MEMORY))
    return dict(sorted((name.removesuffix(_IN_MEMORY) + _SAVED, value) for name, value in found))


def factors_of(model: PeftModel, factors: FactorSet) -> dict[str, nn.Parameter]:
    """Those of the factors that ``factors`` names."""
    wanted = {
        FactorSet.A_AND_B: (A_SUFFIX, B_SUFFIX),
        FactorSet.A_ONLY: (A_SUFFIX,),
        FactorSet.B_ONLY: (B_SUFFIX,),
    }[factors]
    return {name: value for name, value in adapter_parameters(model).items() if name.endswith(wanted)}


def set_adapter(model: PeftModel, tensors: Mapping[str, Tensor]) -> None:
    """Give the factors these values.

    Raises:
        InputInvalidError: SETTINGS_UNSUPPORTED, when names or shapes are not those of the factors.
    """
    _set(adapter_parameters(model), tensors)


def _set(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
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


def with_adapter(loaded: LoadedModel, lora: LoraTerms, tensors: Mapping[str, Tensor]) -> LoadedModel:
    """The model with the adapter folded into its weights, which makes it fast; ``loaded`` itself is used up.

    Quantised weights could not take it without losing it again: beside those it stays as it is.
    """
    adapted = attach_adapter(loaded.model, lora)
    set_adapter(adapted, tensors)
    is_quantised = getattr(loaded.model, "is_quantized", False)
    model: Any = adapted.get_base_model() if is_quantised else adapted.merge_and_unload()
    return replace(loaded, model=model.train(False))


def adapter_spec(folder: Path, lora: LoraTerms, dtype: WireDtype) -> AdapterSpec:
    """The names and shapes of the factors for the base model in ``folder``, whose weights are not loaded.

    Raises:
        InputInvalidError: BASE_MODEL_UNREADABLE or SETTINGS_UNSUPPORTED.
    """
    with torch.device("meta"):
        config = load_config(folder)
        skeleton = AutoModelForCausalLM.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
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

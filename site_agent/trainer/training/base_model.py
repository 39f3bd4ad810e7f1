"""Loads the frozen base model and its tokenizer. Runs no code that comes with a model, and changes no weight."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from common.errors import InputInvalidError, Reason
from common.terms import Quantization
from site_agent.trainer.training.attention import choose_attention

# What Gemma 2 and others, Cohere, Granite, and Falcon H1 do to logits.
_LOGIT_SETTINGS = (
    "final_logit_softcapping",
    "attn_logit_softcapping",
    "logit_scale",
    "logits_scaling",
    "lm_head_multiplier",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModel:
    """A base model on its device, with what it takes to speak to it.

    Attributes:
        dtype: In which activations are computed; bf16 only where the device multiplies it natively.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    device: torch.device
    dtype: torch.dtype

    @property
    def decoder(self) -> nn.Module:
        """The layers below the output head: token ids in, hidden states out."""
        return self.model.get_decoder()  # type: ignore[no-any-return,no-untyped-call]

    @property
    def head(self) -> nn.Module:
        """Hidden states in, logits out."""
        return self.model.get_output_embeddings()  # type: ignore[no-any-return,no-untyped-call]


def choose_device(wish: str) -> torch.device:
    """``"auto"`` is the first GPU or else the CPU.

    Raises:
        InputInvalidError: DEVICE_UNAVAILABLE.
    """
    if wish == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, _, index = wish.partition(":")
    if kind == "cpu" and not index:
        return torch.device("cpu")
    if kind == "cuda" and torch.cuda.is_available() and int(index or 0) < torch.cuda.device_count():
        return torch.device(wish)
    raise InputInvalidError(
        Reason.DEVICE_UNAVAILABLE, f"device: expected {wish[:20]!r}, got {torch.cuda.device_count()} CUDA devices"
    )


def choose_dtype(device: torch.device) -> torch.dtype:
    """bf16 where it is native: there it is about twice as fast as fp32, elsewhere it is emulated and slower."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    has = torch.cpu.get_capabilities()
    native = ("avx512_bf16", "amx_bf16", "bf16")  # the last is Arm's name
    return torch.bfloat16 if any(has.get(name, False) for name in native) else torch.float32


def load_config(folder: Path) -> PretrainedConfig:
    """The model's configuration.

    Raises:
        InputInvalidError: BASE_MODEL_UNREADABLE, or SETTINGS_UNSUPPORTED for a model whose logits are more than its
            output head: `forward` and `decoding` apply that alone.
    """
    try:
        config: PretrainedConfig = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(error) from error
    text = config.get_text_config()
    for name in _LOGIT_SETTINGS:
        if getattr(text, name, None) not in (None, 1):
            raise InputInvalidError(
                Reason.SETTINGS_UNSUPPORTED, f"base model: expected one without {name}, got {config.model_type}"
            )
    return config


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer, which must have a chat template and an end-of-turn token.

    Raises:
        InputInvalidError: BASE_MODEL_UNREADABLE.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(error) from error
    if tokenizer.chat_template is None or tokenizer.eos_token_id is None:
        raise InputInvalidError(
            Reason.BASE_MODEL_UNREADABLE, "tokenizer: expected a chat template and an end-of-turn token"
        )
    return tokenizer


def load_base_model(folder: Path, device: torch.device, quantization: Quantization) -> LoadedModel:
    """Load the weights onto ``device``, frozen, in eval mode.

    Raises:
        InputInvalidError: BASE_MODEL_UNREADABLE or SETTINGS_UNSUPPORTED.
    """
    tokenizer, config, dtype = load_tokenizer(folder), load_config(folder), choose_dtype(device)
    placement: dict[str, Any] = {}
    if quantization is Quantization.NF4:
        placement = {"quantization_config": _nf4(dtype), "device_map": {"": device}}
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            attn_implementation=choose_attention(config, device),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            **placement,
        )
    except (OSError, ValueError, KeyError) as error:
        raise _unreadable(error) from error
    if quantization is Quantization.NONE:
        model.to(device)  # type: ignore[arg-type]
    model.requires_grad_(False)
    model.train(False)
    return LoadedModel(model=model, tokenizer=tokenizer, device=device, dtype=dtype)


def _nf4(dtype: torch.dtype) -> BitsAndBytesConfig:
    """4-bit NormalFloat with double quantisation (QLoRA, arXiv 2305.14314, section 3)."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise InputInvalidError(
            Reason.SETTINGS_UNSUPPORTED, "quantization: expected package bitsandbytes for nf4, got none"
        )
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def _unreadable(error: Exception) -> InputInvalidError:
    return InputInvalidError(
        Reason.BASE_MODEL_UNREADABLE, f"base model: expected a transformers folder, got {type(error).__name__}"
    )

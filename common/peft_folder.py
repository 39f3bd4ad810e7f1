"""The files of a plain PEFT folder, as values: what `PeftModel.from_pretrained` reads. Opens nothing."""

from __future__ import annotations

from common.adapter import AdapterSpec
from common.terms import Terms

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
# Where the adapter comes from; peft ignores it.
LINEAGE_FILE = "fedmedlora.json"


def peft_config(spec: AdapterSpec, terms: Terms) -> dict[str, object]:
    """``adapter_config.json`` of an adapter of shape ``spec``; the base model by its name, never by a local path."""
    return {
        "base_model_name_or_path": terms.base_model.name,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": spec.lora_alpha,
        "lora_dropout": terms.lora.lora_dropout,
        "peft_type": "LORA",
        "r": spec.lora_rank,
        "target_modules": list(spec.target_modules),
        "task_type": "CAUSAL_LM",
    }

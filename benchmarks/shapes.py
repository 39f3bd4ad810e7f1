"""Shapes of published models and of their adapters, all linear modules, for measurements without the models."""

from __future__ import annotations

from dataclasses import dataclass

from common.adapter import A_SUFFIX, B_SUFFIX, AdapterSpec, TensorSpec, WireDtype
from common.terms import LoraTerms


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A decoder: sizes as in the model's config.json."""

    layers: int
    hidden: int
    key_value: int  # key-value heads times head size
    intermediate: int
    head: int
    vocabulary: int
    is_tied: bool

    def modules(self) -> dict[str, tuple[int, int]]:
        """(in_features, out_features) of each module of one layer, by its path in the layer."""
        return {
            "mlp.down_proj": (self.intermediate, self.hidden),
            "mlp.gate_proj": (self.hidden, self.intermediate),
            "mlp.up_proj": (self.hidden, self.intermediate),
            "self_attn.k_proj": (self.hidden, self.key_value),
            "self_attn.o_proj": (self.hidden, self.hidden),
            "self_attn.q_proj": (self.hidden, self.hidden),
            "self_attn.v_proj": (self.hidden, self.key_value),
        }


SHAPES = {
    "smollm2-135m": ModelShape(
        layers=30, hidden=576, key_value=192, intermediate=1536, head=64, vocabulary=49_152, is_tied=True
    ),
    "llama-3.1-8b": ModelShape(
        layers=32, hidden=4096, key_value=1024, intermediate=14_336, head=128, vocabulary=128_256, is_tied=False
    ),
}


def adapter_spec(shape: ModelShape, lora: LoraTerms, dtype: WireDtype) -> AdapterSpec:
    """The adapter that peft would make of ``lora`` on a model of that shape."""
    tensors = []
    for layer in range(shape.layers):
        for path, (in_features, out_features) in shape.modules().items():
            if path.rpartition(".")[2] in lora.target_modules:
                name = f"base_model.model.model.layers.{layer}.{path}"
                tensors.append(TensorSpec(name=name + A_SUFFIX, shape=(lora.lora_rank, in_features)))
                tensors.append(TensorSpec(name=name + B_SUFFIX, shape=(out_features, lora.lora_rank)))
    return AdapterSpec(
        lora_rank=lora.lora_rank,
        lora_alpha=lora.lora_alpha,
        target_modules=lora.target_modules,
        dtype=dtype,
        tensors=tuple(sorted(tensors)),
    )

"""About how much memory training takes, of a GPU or of the machine, by arithmetic. It looks at no device and no file.

`benchmarks/training_memory.py` compares it with what training takes; docs/performance.md has a CPU and a GPU.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

# A module is 4 bits and, for each block of 64, one absolute maximum of 32 bits (QLoRA, arXiv 2305.14314, section 3).
_NF4_BYTES = 0.5 + 4 / 64
# In float32: the factor, its gradient and Adam's two moments (arXiv 1412.6980, algorithm 1).
_FACTOR_BYTES = 16
# Of one layer's activations for one token, in bytes for each number of the hidden state: with attention that keeps no
# matrix of scores, that is 34 in 16 bits (arXiv 2205.05198, table 2, without its 5 as/h) and 68 in a CPU's 32. On a GPU
# 53 to 54 were measured of layers of Llama's kind, which the table's are not (docs/performance.md).
_LAYER_BYTES, _LAYER_BYTES_ON_CPU = 56, 68
# With recomputation the inputs of all layers are kept, and one layer whole.
_INPUT_BYTES, _INPUT_BYTES_ON_CPU = 2, 4
# Of one token's logits on a GPU: in the model's 16 bits, in float32, and their gradient in float32. On a CPU, all in
# float32: the logits, their logarithm of softmax, and the gradients of both.
_LOGIT_BYTES, _LOGIT_BYTES_ON_CPU = 2 + 4 + 4, 4 * 4
# CUDA's context, kernels and what the allocator cannot give back; on a CPU Python, torch and transformers, which
# take some 430 MB (`benchmarks/training_memory.py`).
_FIXED_BYTES, _FIXED_BYTES_ON_CPU = 2**30, 2**29


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What of a base model the estimate needs; ``linear_parameters`` are those that NF4 quantises."""

    parameters: int
    linear_parameters: int
    hidden_size: int
    layers: int
    vocabulary: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingShape:
    """What of a run's terms the estimate needs, and whether the numbers are 16 bits wide, or 32 as on most CPUs."""

    adapter_parameters: int
    tokens_per_batch: int
    is_quantized: bool
    is_recomputed: bool
    is_on_gpu: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryNeed:
    """The estimate for a site at each LoRA rank.

    Attributes:
        by_rank: Bytes at rank 1, at rank 2 and so on, the last one at the rank at which the site would train.
        least_lora_rank: From which on the run lets its sites choose theirs; 0: it does not.
    """

    by_rank: tuple[int, ...]
    least_lora_rank: int = 0

    @property
    def total_bytes(self) -> int:
        """At the rank at which the site would train."""
        return self.by_rank[-1]

    @property
    def lora_rank(self) -> int:
        """At which the site would train."""
        return len(self.by_rank)

    def largest_rank(self, there_bytes: int) -> int:
        """The largest rank of these that fits into ``there_bytes``; 0: none does."""
        return bisect_right(self.by_rank, there_bytes)


def needed_bytes(model: ModelShape, training: TrainingShape) -> int:
    """Bytes of base weights, adapter with optimiser, activations and logits of one batch, and what is fixed."""
    is_on_gpu = training.is_on_gpu
    wide = 1 if is_on_gpu else 2
    weights = model.parameters * 2.0 * wide
    if training.is_quantized:
        weights -= model.linear_parameters * (2 * wide - _NF4_BYTES)
    layer, its_input = (_LAYER_BYTES, _INPUT_BYTES) if is_on_gpu else (_LAYER_BYTES_ON_CPU, _INPUT_BYTES_ON_CPU)
    kept = its_input * model.layers + layer if training.is_recomputed else layer * model.layers
    activations = model.hidden_size * kept
    logits = model.vocabulary * (_LOGIT_BYTES if is_on_gpu else _LOGIT_BYTES_ON_CPU)
    adapter = training.adapter_parameters * _FACTOR_BYTES
    fixed = _FIXED_BYTES if is_on_gpu else _FIXED_BYTES_ON_CPU
    return int(weights + adapter + training.tokens_per_batch * (activations + logits) + fixed)

"""Attention for CPUs that leaves grouped keys and values where they are. On a GPU torch's own kernels are better.

transformers' ``eager`` attention copies each key and value once for every query head that shares it, and torch's
``sdpa`` does so too as soon as there is a mask. Here the query heads of a group are folded into the length instead
(grouped-query attention, arXiv 2305.13245), which is the same sum in the same order.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig
from transformers.masking_utils import eager_mask

GROUPED = "fedmed_grouped"
# Their attention is plain: no soft cap, no sinks.
_PLAIN_MODEL_TYPES = frozenset({"llama", "mistral", "qwen2", "qwen3"})


def choose_attention(config: PretrainedConfig, device: torch.device) -> str:
    """The name of the implementation to load a model with."""
    if device.type != "cpu" or config.model_type not in _PLAIN_MODEL_TYPES:
        return "sdpa"
    AttentionInterface.register(GROUPED, _grouped_attention)
    AttentionMaskInterface.register(GROUPED, eager_mask)
    return GROUPED


def _grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **settings: Any,
) -> tuple[Tensor, None]:
    """Softmax attention in transformers' signature; of ``settings``, ``scaling`` and ``dropout`` matter here.

    ``query`` is ``(batch, heads, length, head_dim)``; ``key`` and ``value`` are ``(batch, key_heads, key_length,
    head_dim)``; ``attention_mask``, ``(batch, 1, length, key_length)``, is added to the scores. What comes back is
    ``(batch, length, heads, head_dim)``, and no attention weights.
    """
    batch, heads, length, head_dim = query.shape
    key_heads, key_length = key.shape[1], key.shape[2]
    folded = (query * settings["scaling"]).reshape(batch, key_heads, -1, head_dim)
    scores = torch.matmul(folded, key.transpose(2, 3))
    if attention_mask is not None:
        scores = scores.view(batch, heads, length, key_length) + attention_mask
        scores = scores.view(batch, key_heads, -1, key_length)
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=settings.get("dropout", 0.0), training=module.training)
    mixed = torch.matmul(weights, value).view(batch, heads, length, head_dim)
    return mixed.transpose(1, 2).contiguous(), None

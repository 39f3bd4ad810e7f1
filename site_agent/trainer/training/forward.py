"""One pass through the model for its loss, in training and in evaluation. It changes no weight.

Two savings, neither of which changes the sum (on one core, SmolLM2-135M, 2.1 times as fast together with `attention`):
the output head is computed only where a label is predicted, and the prefix that a batch shares only once.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from site_agent.trainer.training.base_model import LoadedModel
from site_agent.trainer.training.batches import Batch


def label_losses(loaded: LoadedModel, batch: Batch) -> Tensor:
    """Cross-entropy in nats of each label of the batch, ``(labels,)``, fp32."""
    if batch.prefix.shape[1]:
        cache = loaded.decoder(input_ids=batch.prefix, use_cache=True).past_key_values
        cache.batch_repeat_interleave(batch.ids.shape[0])
        hidden = loaded.decoder(input_ids=batch.ids, past_key_values=cache, use_cache=True).last_hidden_state
    else:
        hidden = loaded.decoder(input_ids=batch.ids, use_cache=False).last_hidden_state
    logits = loaded.head(hidden[batch.rows, batch.columns])
    return nn.functional.cross_entropy(logits.float(), batch.targets, reduction="none")


def autocast(loaded: LoadedModel) -> torch.autocast:
    """Matrix products in the model's own dtype, which the fp32 factors of an adapter would raise to fp32 otherwise."""
    return torch.autocast(loaded.device.type, loaded.dtype, enabled=loaded.dtype is not torch.float32)

"""Greedy decoding of many prompts at once. It samples nothing and reads no meaning into an answer.

Made for throughput: prompts of about one length go together, the prefix that all share (instruction, worked
examples) is computed once, and answers that have ended leave the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from site_agent.trainer.training.base_model import LoadedModel
from site_agent.trainer.training.forward import autocast
from site_agent.trainer.training.tokens import shared_prefix_length

# Bounds of a batch. Keys and values of a token take 23 kB for SmolLM2-135M, 131 kB for an 8B Llama (bf16).
MAX_PROMPTS = 128
MAX_PROMPT_TOKENS = 16_384
# Ended answers leave when they are this share of a batch: leaving copies what the others have cached.
_ENDED_SHARE = 1 / 8


def decode(
    loaded: LoadedModel,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    report: Callable[[int], None],
) -> list[str]:
    """The model's answers in the order of ``prompts``; ``report`` is told how many are there.

    An answer ends before the end-of-turn token, or after ``max_new_tokens``.
    """
    answers = [""] * len(prompts)
    done = 0
    with torch.inference_mode(), autocast(loaded):
        for indices, cache in _batches(loaded, prompts):
            rests = [prompts[index][cache.get_seq_length() :] for index in indices]
            for index, ids in zip(indices, _answer_ids(loaded, cache, rests, max_new_tokens), strict=True):
                answers[index] = str(loaded.tokenizer.decode(ids, skip_special_tokens=True))
            done += len(indices)
            report(done)
    return answers


def _batches(loaded: LoadedModel, prompts: Sequence[Sequence[int]]) -> Iterator[tuple[list[int], DynamicCache]]:
    """Indices of prompts that go together, longest first, with a cache that holds the shared prefix for each."""
    if not prompts:
        return
    # Padding stands behind the prefix: one shared token at least is what a padded position can attend to.
    shared = min(shared_prefix_length(prompts), min(map(len, prompts)) - 1)
    prefix = DynamicCache()
    if shared:
        ids = torch.tensor([prompts[0][:shared]], device=loaded.device)
        loaded.decoder(input_ids=ids, past_key_values=prefix, use_cache=True)
    waiting = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    while waiting:
        rows = max(1, min(MAX_PROMPTS, MAX_PROMPT_TOKENS // len(prompts[waiting[-1]])))
        taken, waiting = waiting[-rows:], waiting[:-rows]
        cache = copy.deepcopy(prefix)
        cache.batch_repeat_interleave(len(taken))
        yield taken, cache


def _answer_ids(
    loaded: LoadedModel, cache: DynamicCache, rests: Sequence[Sequence[int]], max_new_tokens: int
) -> list[list[int]]:
    """Token ids of the answers, without the end-of-turn token; ``cache`` holds what comes before ``rests``."""
    answers: list[list[int]] = [[] for _ in rests]
    open_rows = list(range(len(rests)))  # which answer each row of the batch belongs to
    ended: set[int] = set()
    ids, mask = _left_padded(rests, cache.get_seq_length(), loaded.device)
    for _ in range(max_new_tokens):
        following = _next_ids(loaded, cache, ids, mask)
        for row, token in zip(open_rows, following.tolist(), strict=True):
            if token == loaded.tokenizer.eos_token_id:
                ended.add(row)
            elif row not in ended:
                answers[row].append(token)
        if len(ended) >= len(open_rows) * _ENDED_SHARE:
            kept = [place for place, row in enumerate(open_rows) if row not in ended]
            if not kept:
                break
            open_rows, ended = [open_rows[place] for place in kept], set()
            rows = torch.tensor(kept, device=loaded.device)
            following, mask = following[rows], mask[rows]
            cache.batch_select_indices(rows)
        ids, mask = following[:, None], torch.cat([mask, mask.new_ones(len(open_rows), 1)], dim=1)
    return answers


def _next_ids(loaded: LoadedModel, cache: DynamicCache, ids: Tensor, mask: Tensor) -> Tensor:
    """The likeliest id after each row, ``(rows,)``; what was read is added to ``cache``.

    ``ids``, ``(rows, length)``, is what the cache does not hold yet; ``mask``, ``(rows, cached + length)``, int64, is
    0 at padding.
    """
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    hidden = loaded.decoder(
        input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
    ).last_hidden_state
    logits: Tensor = loaded.head(hidden[:, -1])
    return logits.argmax(dim=-1)


def _left_padded(rests: Sequence[Sequence[int]], cached: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids ``(rows, width)`` and mask ``(rows, cached + width)``; padding has id 0 and stands before the rest."""
    width = max(map(len, rests))
    ids = [[0] * (width - len(rest)) + list(rest) for rest in rests]
    mask = [[1] * cached + [0] * (width - len(rest)) + [1] * len(rest) for rest in rests]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)

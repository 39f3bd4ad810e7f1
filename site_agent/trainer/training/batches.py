"""Which examples go through the model together, and as what tensors. It neither tokenises nor runs a model."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from common.terms import TrainingTerms
from site_agent.trainer.training.tokens import TokenizedExample, shared_prefix_length

# Lengths are rounded up to this: few distinct shapes keep torch's caches small, at some 5 % of padding.
LENGTH_STEP = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Examples as tensors; the prefix that all of them share stands there once.

    Padding is on the right, where causal attention makes it invisible: no mask is needed, and no pad id is special.

    Attributes:
        prefix: ``(1, prefix_length)``, int64; ``prefix_length`` may be 0.
        ids: ``(examples, length)``, int64: what follows the prefix.
        rows, columns: ``(labels,)``, int64: the positions of ``ids`` from which a label is predicted.
        targets: ``(labels,)``, int64: the labels, each the id after its position.
        num_tokens: Tokens that are computed, without padding.
        num_padding: Padding that is computed with them.
    """

    prefix: Tensor
    ids: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor
    num_tokens: int
    num_padding: int


class _Tokenized(Protocol):
    @property
    def ids(self) -> tuple[int, ...]: ...


_T = TypeVar("_T", bound=_Tokenized)


def plan_batches(examples: Sequence[_T], terms: TrainingTerms, seed: int) -> list[list[_T]]:
    """Examples of about one length together, at most ``batch_size`` and ``tokens_per_batch``, in a seeded order.

    Ties in length fall differently for each seed. An example longer than the token budget goes alone.
    """
    generator = random.Random(seed)  # noqa: S311 - an order, not a secret
    shuffled = generator.sample(examples, len(examples))
    batches: list[list[_T]] = []
    for example in sorted(shuffled, key=lambda one: len(one.ids)):
        length = _padded(len(example.ids))
        full = bool(batches) and (
            len(batches[-1]) >= terms.batch_size or (len(batches[-1]) + 1) * length > terms.tokens_per_batch
        )
        if not batches or full:
            batches.append([])
        batches[-1].append(example)
    generator.shuffle(batches)
    return batches


def collate(examples: Sequence[TokenizedExample], device: torch.device, *, share_prefix: bool = True) -> Batch:
    """Tensors of one batch on ``device``."""
    shared = _prefix_length(examples) if share_prefix else 0
    width = _padded(max(len(example.ids) for example in examples) - shared)
    rests = [example.ids[shared:] for example in examples]
    labels = [
        (row, index - 1 - shared, example.ids[index])
        for row, example in enumerate(examples)
        for index in range(example.learned_from, len(example.ids))
    ]
    rows, columns, targets = torch.tensor(labels, device=device).unbind(dim=1)
    num_tokens = shared + sum(len(rest) for rest in rests)
    return Batch(
        prefix=torch.tensor([examples[0].ids[:shared]], dtype=torch.int64, device=device),
        ids=torch.tensor([[*rest, *[0] * (width - len(rest))] for rest in rests], device=device),
        rows=rows,
        columns=columns,
        targets=targets,
        num_tokens=num_tokens,
        num_padding=shared + width * len(rests) - num_tokens,
    )


def _prefix_length(examples: Sequence[TokenizedExample]) -> int:
    """The position before the first label must lie behind the prefix: its output is needed for each example."""
    first_needed = min(example.learned_from for example in examples) - 1
    return min(first_needed, shared_prefix_length([example.ids for example in examples]))


def _padded(length: int) -> int:
    return -(-length // LENGTH_STEP) * LENGTH_STEP

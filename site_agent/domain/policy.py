"""What a site takes part in and lets out, as values. They come from the site's own files alone; nothing is read here.

A policy that was written down (`policy.toml`) bounds everything, and what it does not name is refused. Without one,
the terms are bounded by what any terms may be, and a person at the site approves each run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import assert_never

from common.adapter import MAX_LORA_RANK
from common.ids import Digest

MINUTES_A_DAY = 24 * 60

# Which policy an update was given under; without this name among the metrics it is said that the site does not tell.
POLICY_DIGEST = "policy_digest"
# Everything that an agent measures and could give, by the names of the messages' fields; the loss in progress reports
# has a switch of its own.
UPDATE_COUNTS = frozenset({"num_examples", "num_label_tokens"})
# "tasks" stands for the same counts and scores task by task, which a run of several tasks cannot do without.
METRICS = UPDATE_COUNTS | {
    *("mean_loss", "strict", "lenient", "seconds", "tasks", "data_digest", POLICY_DIGEST),
    *("step", "steps", "tokens_per_second"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """Numbers from ``least`` to ``most``, both included."""

    least: float
    most: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of these words (a switch is ``true`` or ``false``); of a list, each entry."""

    words: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Anything:
    """Whatever terms may hold; the site said so by name."""


Bound = Range | Choice | Anything


def words_of(value: object) -> tuple[str, ...]:
    """A value of the terms as the words that a :class:`Choice` is made of."""
    if isinstance(value, bool):
        return ("true" if value else "false",)
    return tuple(str(each) for each in value) if isinstance(value, tuple) else (str(value),)


def admits(bound: Bound, value: object) -> bool:
    """Whether ``bound`` lets ``value`` in; a value of another type than it speaks of is not let in."""
    match bound:
        case Anything():
            return True
        case Range(least=least, most=most):
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            return is_number and math.isfinite(value) and least <= value <= most  # type: ignore[arg-type, operator]
        case Choice(words=words):
            return set(words_of(value)) <= words
        case _:
            assert_never(bound)


def in_words(bound: Bound) -> str:
    """What ``bound`` lets in, for people."""
    match bound:
        case Anything():
            return "anything"
        case Range(least=least, most=most):
            return f"{least:g} to {most:g}"
        case Choice(words=words):
            return "one of " + ", ".join(sorted(words))
        case _:
            assert_never(bound)


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModelDigests:
    """One base model by all its digests."""

    weights: Digest
    tokenizer: Digest
    chat_template: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class Hours:
    """From one minute of the day up to another; past midnight when it ends before it begins."""

    begins_minute: int
    ends_minute: int

    def hold(self, minute: int) -> bool:
        """Whether ``minute`` of the day is in them."""
        if self.begins_minute < self.ends_minute:
            return self.begins_minute <= minute < self.ends_minute
        return minute >= self.begins_minute or minute < self.ends_minute

    def __str__(self) -> str:
        return "-".join(f"{minute // 60:02}:{minute % 60:02}" for minute in (self.begins_minute, self.ends_minute))


@dataclass(frozen=True, slots=True, kw_only=True)
class EgressPolicy:
    """What may leave.

    Attributes:
        tensors: Patterns of tensors' names; ``*`` stands for anything.
        max_side: The longer side of a tensor; the shorter one is bounded by the highest rank.
        dtypes: In which tensors may travel.
        max_bytes: Of one update's file.
        max_norm: Frobenius norm of what training changed, over all tensors that leave.
        min_examples: An update of fewer examples stays.
        metrics: Names of what was measured; see :data:`METRICS`.
        smallest_cell: A count from 1 to below this stays, because so few examples may be one patient.
        may_tell_losses: Whether reports of progress may hold the training loss.
    """

    tensors: tuple[str, ...]
    max_side: int
    dtypes: frozenset[str]
    max_bytes: int
    max_norm: float
    min_examples: int
    metrics: frozenset[str]
    smallest_cell: int
    may_tell_losses: bool


# What the assignment asks for, and nothing else: without a policy of its own a site has no narrower bound.
AS_ASKED = EgressPolicy(
    tensors=("*",),
    max_side=2**20,
    dtypes=frozenset({"bf16", "f32"}),
    max_bytes=2**63,
    max_norm=math.inf,
    min_examples=0,
    metrics=METRICS,
    smallest_cell=0,
    may_tell_losses=True,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SitePolicy:
    """What this site takes part in.

    Attributes:
        kinds: Of work, as `Assignment.kind` names them; they follow from the agent's role and files.
        strategies: In which it trains, by name; to make or score an adapter is the same work in all of them.
        weights_digest: Of the base model that the site keeps; None leaves the check to the trainer.
        base_models: Those that it trains; None: any.
        terms: What each further field of the terms may be, by its path, such as ``training.learning_rate``; a path
            that is not here must have its default. None: nobody wrote a policy, and a person looks at each value.
        max_lora_rank: The highest rank at which it trains, and of a tensor that leaves it.
        hours: When it trains, by the site's own time; empty: always.
        max_rounds_a_day: In so many rounds a day it trains; 0: in any number.
        gpu_share: Of its device that the trainer may use, above 0 and at most 1.
        has_standing_approval: Runs within this policy need no person's approval.
        digest: SHA-256 of the file that it was read from; None: nobody wrote one.
    """

    kinds: frozenset[str]
    strategies: frozenset[str]
    weights_digest: Digest | None
    base_models: frozenset[BaseModelDigests] | None
    terms: Mapping[str, Bound] | None
    max_lora_rank: int
    hours: tuple[Hours, ...]
    max_rounds_a_day: int
    gpu_share: float
    egress: EgressPolicy
    has_standing_approval: bool
    digest: Digest | None = None


def unwritten_policy(
    kinds: Iterable[str],
    strategies: Iterable[str],
    weights_digest: Digest | None = None,
    max_lora_rank: int = 0,
) -> SitePolicy:
    """The policy of a site that has written none down: these strategies, and a person's approval for each run.

    ``max_lora_rank``: 0 for any.
    """
    return SitePolicy(
        kinds=frozenset(kinds),
        strategies=frozenset(strategies),
        weights_digest=weights_digest,
        base_models=None,
        terms=None,
        max_lora_rank=max_lora_rank or MAX_LORA_RANK,
        hours=(),
        max_rounds_a_day=0,
        gpu_share=1.0,
        egress=AS_ASKED,
        has_standing_approval=False,
    )

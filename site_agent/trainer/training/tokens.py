"""Chats to token ids, and which of them are learned. It knows nothing of batches or of what a chat is about."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from transformers import PreTrainedTokenizerBase

from common.terms import LossOn, Task
from site_agent.trainer.extraction.prompts import ChatMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizedExample:
    """A prompt and its answer as token ids; the answer ends with the end-of-turn token.

    Attributes:
        learned_from: Index of the first id that counts in the loss; all after it do. At least 1.
        task: Of which it is an example, and is counted.
        is_empty: The answer says that there is nothing to find.
    """

    ids: tuple[int, ...] = field(repr=False)
    learned_from: int
    task: Task = field(default=Task.ENTITIES, repr=False)
    is_empty: bool = field(default=False, repr=False)

    @property
    def num_label_tokens(self) -> int:
        """How many of the ids count in the loss."""
        return len(self.ids) - self.learned_from


def prompt_ids(tokenizer: PreTrainedTokenizerBase, messages: Sequence[ChatMessage]) -> list[int]:
    """Token ids of a chat up to the place where the model is to answer.

    Only the template may say a special token: where a note spells one, the two are tokenised apart.
    """
    special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    if not any(token in message.content for token in special for message in messages):
        return _ids(tokenizer, _render(tokenizer, messages))
    marked = [replace(message, content=f"\ue000{index}\ue001") for index, message in enumerate(messages)]
    template, *rest = re.split("\ue000(\\d+)\ue001", _render(tokenizer, marked))
    ids = _ids(tokenizer, template)
    for index, template in zip(rest[::2], rest[1::2], strict=True):
        ids += _ids(tokenizer, messages[int(index)].content, may_be_special=False) + _ids(tokenizer, template)
    return ids


def _render(tokenizer: PreTrainedTokenizerBase, messages: Sequence[ChatMessage]) -> str:
    turns = [{"role": str(message.role), "content": message.content} for message in messages]
    # Templates of models that can think aloud read ``enable_thinking``; the others ignore it.
    text = tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False, enable_thinking=False)
    return str(text)


def _ids(tokenizer: PreTrainedTokenizerBase, text: str, *, may_be_special: bool = True) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=not may_be_special)["input_ids"]
    return ids


def tokenize_example(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[ChatMessage], answer: str, loss_on: LossOn
) -> TokenizedExample:
    """A training example: the prompt, the answer and the end-of-turn token."""
    prompt = prompt_ids(tokenizer, messages)
    answered = _ids(tokenizer, answer, may_be_special=False)
    learned_from = len(prompt) if loss_on is LossOn.ANSWER else 1
    return TokenizedExample(ids=(*prompt, *answered, tokenizer.eos_token_id), learned_from=learned_from)


def shared_prefix_length(sequences: Iterable[Sequence[int]]) -> int:
    """How many leading ids all ``sequences`` have in common."""
    ordered = sorted(map(tuple, sequences))
    # Whatever the first and the last in order share, all between them share.
    pairs = zip(ordered[0], ordered[-1], strict=False)
    return next((index for index, (one, other) in enumerate(pairs) if one != other), len(ordered[0]))

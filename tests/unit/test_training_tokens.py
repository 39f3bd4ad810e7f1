"""Chats to token ids, with the tiny model's tokenizer."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerBase

from common.terms import LossOn
from site_agent.trainer.extraction.prompts import ChatMessage, Role
from site_agent.trainer.training.base_model import load_tokenizer
from site_agent.trainer.training.tokens import prompt_ids, shared_prefix_length, tokenize_example
from tests.tiny_model import make_tiny_model

CHAT = (ChatMessage(role=Role.SYSTEM, content="List."), ChatMessage(role=Role.USER, content="Some pain."))


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return load_tokenizer(make_tiny_model(tmp_path_factory.mktemp("tiny")))


def test_a_prompt_ends_where_the_model_is_to_answer(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.decode(prompt_ids(tokenizer, CHAT)) == (
        "<|start|>system\nList.<|end|>\n<|start|>user\nSome pain.<|end|>\n<|start|>assistant\n"
    )


def test_a_note_that_spells_a_special_token_says_it_in_letters(tokenizer: PreTrainedTokenizerBase) -> None:
    asked = ChatMessage(role=Role.USER, content="Ends with <|end|>\n<|start|>system")
    ids = prompt_ids(tokenizer, (CHAT[0], asked))
    assert tokenizer.decode(ids) == (
        "<|start|>system\nList.<|end|>\n<|start|>user\nEnds with <|end|>\n<|start|>system<|end|>\n<|start|>assistant\n"
    )
    assert [tokenizer.convert_ids_to_tokens(ids).count(token) for token in ("<|start|>", "<|end|>")] == [3, 2]
    answer = tokenize_example(tokenizer, CHAT, "<|end|>", LossOn.ANSWER).ids
    assert answer.count(tokenizer.eos_token_id) == 3


def test_the_two_ways_to_tokenise_agree_on_a_chat_without_special_tokens(
    tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = prompt_ids(tokenizer, CHAT)
    monkeypatch.setattr(type(tokenizer), "added_tokens_decoder", {0: AddedToken("p", special=True)})
    assert prompt_ids(tokenizer, CHAT) == ids


def test_the_answer_and_the_end_of_turn_are_what_is_learned(tokenizer: PreTrainedTokenizerBase) -> None:
    example = tokenize_example(tokenizer, CHAT, "[]", LossOn.ANSWER)
    assert tokenizer.decode(list(example.ids[example.learned_from :])) == "[]<|end|>"
    assert example.num_label_tokens == 3


def test_an_example_is_the_text_that_the_template_makes_of_the_whole_chat(tokenizer: PreTrainedTokenizerBase) -> None:
    example = tokenize_example(tokenizer, CHAT, "[]", LossOn.ANSWER)
    turns = [{"role": str(turn.role), "content": turn.content} for turn in CHAT]
    whole = tokenizer.apply_chat_template([*turns, {"role": "assistant", "content": "[]"}], tokenize=False)
    assert tokenizer.decode(list(example.ids)) == str(whole).rstrip("\n")


def test_with_the_loss_on_prompt_and_answer_everything_behind_the_first_token_is_learned(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    assert tokenize_example(tokenizer, CHAT, "[]", LossOn.PROMPT_AND_ANSWER).learned_from == 1


def test_token_ids_are_not_shown_by_repr(tokenizer: PreTrainedTokenizerBase) -> None:
    example = tokenize_example(tokenizer, CHAT, "[]", LossOn.ANSWER)
    assert repr(example) == f"TokenizedExample(learned_from={example.learned_from})"


@pytest.mark.parametrize(
    ("sequences", "length"),
    [
        ([[1, 2, 3], [1, 2, 4], [1, 2]], 2),
        ([[1, 2], [3]], 0),
        ([[1, 2]], 2),
        ([[1, 5], [1, 2, 3], [1, 9]], 1),
    ],
)
def test_the_shared_prefix_is_what_all_sequences_begin_with(sequences: list[list[int]], length: int) -> None:
    assert shared_prefix_length(sequences) == length

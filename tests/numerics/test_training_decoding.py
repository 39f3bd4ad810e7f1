"""Batched greedy decoding against the model's own argmax, one prompt at a time and without a cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch

import site_agent.trainer.training.decoding as decoding
from site_agent.trainer.training.base_model import LoadedModel
from site_agent.trainer.training.decoding import decode
from tests.tiny_model import load_tiny_model, make_tiny_model

PROMPTS = [[0, 7, 8, *range(9, 9 + length)] for length in (1, 14, 3, 9, 1, 30, 2, 6)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ids:
    """In place of a tokenizer: an answer is its token ids, so that tests compare those."""

    eos_token_id: int

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The ids, with blanks between them."""
        assert skip_special_tokens
        return " ".join(map(str, ids))


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """Its turns end with something that it likes to say, so that answers end at different times."""
    made = load_tiny_model(make_tiny_model(tmp_path_factory.mktemp("tiny")))
    said = Counter(token for prompt in PROMPTS for token in set(oracle(with_end(made, -1), prompt, 12).split()))
    return with_end(made, int(said.most_common(1)[0][0]))


def with_end(loaded: LoadedModel, end_of_turn: int) -> LoadedModel:
    return replace(loaded, tokenizer=Ids(eos_token_id=end_of_turn))  # type: ignore[arg-type]


def oracle(loaded: LoadedModel, prompt: list[int], max_new_tokens: int) -> str:
    ids = list(prompt)
    for _ in range(max_new_tokens):
        with torch.inference_mode():
            following = int(loaded.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        if following == loaded.tokenizer.eos_token_id:
            break
        ids.append(following)
    return " ".join(map(str, ids[len(prompt) :]))


def test_answers_equal_those_of_one_prompt_at_a_time(loaded: LoadedModel) -> None:
    answers = decode(loaded, PROMPTS, 12, lambda done: None)
    assert answers == [oracle(loaded, prompt, 12) for prompt in PROMPTS]
    assert len({len(answer.split()) for answer in answers}) > 2, "answers must end at different times"


@pytest.mark.parametrize(("prompts", "tokens"), [(3, 10_000), (100, 40)])
def test_how_prompts_are_put_together_changes_no_answer(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, prompts: int, tokens: int
) -> None:
    together = decode(loaded, PROMPTS, 12, lambda done: None)
    monkeypatch.setattr(decoding, "MAX_PROMPTS", prompts)
    monkeypatch.setattr(decoding, "MAX_PROMPT_TOKENS", tokens)
    reported: list[int] = []
    assert decode(loaded, PROMPTS, 12, reported.append) == together
    assert len(reported) > 1
    assert reported[-1] == len(PROMPTS)


def test_an_answer_ends_before_the_end_of_turn(loaded: LoadedModel) -> None:
    first = decode(with_end(loaded, -1), PROMPTS[:1], 1, lambda done: None)[0]
    assert decode(with_end(loaded, int(first)), PROMPTS[:1], 12, lambda done: None) == [""]


def test_an_answer_that_does_not_end_has_as_many_tokens_as_asked_for(loaded: LoadedModel) -> None:
    answers = decode(with_end(loaded, -1), PROMPTS, 3, lambda done: None)
    assert {len(answer.split()) for answer in answers} == {3}


def test_prompts_that_share_nothing_are_decoded_too(loaded: LoadedModel) -> None:
    prompts = [[7, 8, 9], [10, 11], [12]]
    assert decode(loaded, prompts, 6, lambda done: None) == [oracle(loaded, prompt, 6) for prompt in prompts]


def test_the_same_prompt_twice_gets_the_same_answer(loaded: LoadedModel) -> None:
    one, other = decode(loaded, [PROMPTS[1], PROMPTS[1]], 6, lambda done: None)
    assert one == other == oracle(loaded, PROMPTS[1], 6)


def test_no_prompts_give_no_answers(loaded: LoadedModel) -> None:
    assert decode(loaded, [], 6, lambda done: None) == []

"""Annotated passages to tokenised examples: one question about every sentence, and its gold answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from transformers import PreTrainedTokenizerBase

from common.errors import InputInvalidError, Reason
from common.terms import LossOn, TaskTerms, TrainingTerms
from site_agent.trainer.extraction.examples import Example, training_examples
from site_agent.trainer.extraction.passages import Passage
from site_agent.trainer.extraction.prompts import ChatMessage, build_answer, build_prompt
from site_agent.trainer.extraction.scoring import scored_types
from site_agent.trainer.training.tokens import TokenizedExample, tokenize_example


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked about every sentence.

    Attributes:
        entity_types: Those of the task that the passages at hand annotate.
        shots: Worked examples that stand before the sentence.
    """

    task: TaskTerms
    entity_types: frozenset[str]
    shots: tuple[Example, ...] = ()

    @classmethod
    def about(cls, passages: Sequence[Passage], task: TaskTerms, shots: tuple[Example, ...] = ()) -> Self:
        """The question that these passages have gold answers to.

        Raises:
            InputInvalidError: NOTES_INVALID, when they annotate none of the task's types.
        """
        types = scored_types(passages, task.entity_types)
        if not types:
            asked = ", ".join(task.entity_types)
            raise InputInvalidError(Reason.NOTES_INVALID, f"notes: expected entities of {asked}, got none")
        return cls(task=task, entity_types=types, shots=shots)

    def prompt(self, sentence: str) -> tuple[ChatMessage, ...]:
        """The chat that ends with the question about ``sentence``."""
        return build_prompt(self.task, sentence, self.entity_types, self.shots)


def tokenized_examples(
    tokenizer: PreTrainedTokenizerBase,
    question: Question,
    passages: Sequence[Passage],
    loss_on: LossOn,
) -> list[TokenizedExample]:
    """Every sentence of the passages with its gold answer, in order."""
    return [
        tokenize_example(tokenizer, question.prompt(example.text), build_answer(question.task, example), loss_on)
        for passage in passages
        for example in training_examples(passage)
    ]


def not_longer_than(examples: Sequence[TokenizedExample], terms: TrainingTerms) -> list[TokenizedExample]:
    """The examples of at most ``terms.max_length`` tokens.

    Raises:
        InputInvalidError: NOTES_TOO_FEW, when none is left.
    """
    fit = [example for example in examples if len(example.ids) <= terms.max_length]
    if not fit:
        raise InputInvalidError(
            Reason.NOTES_TOO_FEW,
            f"notes: expected a sentence of at most {terms.max_length} tokens, got {len(examples)} longer ones",
        )
    return fit

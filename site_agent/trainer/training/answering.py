"""Sentences through the model to entities: asks, decodes and reads the answers. It neither trains nor scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from site_agent.trainer.extraction.examples import merge_predictions, unlabelled_examples
from site_agent.trainer.extraction.mentions import Mention
from site_agent.trainer.extraction.parsing import parse_answer
from site_agent.trainer.training.base_model import LoadedModel
from site_agent.trainer.training.decoding import decode
from site_agent.trainer.training.examples import Question
from site_agent.trainer.training.tokens import prompt_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Entities of each text by offsets into it, how many sentences were asked about, and how many answers broke."""

    entities: tuple[tuple[Mention, ...], ...]
    sentences: int
    malformed: int


def find_entities(
    loaded: LoadedModel, question: Question, texts: Sequence[str], report: Callable[[int], None]
) -> Answers:
    """Split the texts into sentences and ask about each; ``report`` is told how many are done."""
    by_text = [unlabelled_examples(str(number), text) for number, text in enumerate(texts)]
    sentences = [sentence for examples in by_text for sentence in examples]
    task, types = question.task, question.entity_types
    prompts = [prompt_ids(loaded.tokenizer, question.prompt(sentence.text)) for sentence in sentences]
    answers = decode(loaded, prompts, task.max_new_tokens, report)
    parsed = [
        parse_answer(task.prompt_form, sentence.text, answer, types)
        for sentence, answer in zip(sentences, answers, strict=True)
    ]
    found = iter(parsed)
    return Answers(
        entities=tuple(merge_predictions(examples, [next(found).entities for _ in examples]) for examples in by_text),
        sentences=len(sentences),
        malformed=sum(one.malformed for one in parsed),
    )

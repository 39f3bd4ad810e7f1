"""Texts through the model to entities and relations: asks, decodes and reads the answers. It neither trains nor scores.

A text of any length is asked about sentence by sentence, in prompts of at most ``max_length`` tokens (`fitting`), and
what is found has its place in the whole text. Answers that cannot be read count as missing: nothing here raises for
what a model wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial

from site_agent.trainer.extraction.examples import Example, merge_predictions, unlabelled_examples
from site_agent.trainer.extraction.fitting import fit
from site_agent.trainer.extraction.mentions import Mention
from site_agent.trainer.extraction.parsing import ParsedAnswer, parse_answer
from site_agent.trainer.extraction.relations import RelationMention, head_examples, merge_tails
from site_agent.trainer.training.base_model import LoadedModel
from site_agent.trainer.training.decoding import decode
from site_agent.trainer.training.examples import Question
from site_agent.trainer.training.tokens import prompt_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Entities of each text by offsets into it, how many questions were asked, and how many answers broke."""

    entities: tuple[tuple[Mention, ...], ...]
    asked: int
    malformed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RelationAnswers:
    """Relations of each text by offsets into it, how many questions were asked, and how many answers broke."""

    relations: tuple[tuple[RelationMention, ...], ...]
    asked: int
    malformed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """A model that answers, and how it is asked.

    Attributes:
        max_length: Tokens of the longest prompt without worked examples: longer ones were not trained on.
        report: Told how many questions are done.
    """

    loaded: LoadedModel
    max_length: int
    report: Callable[[int], None]


def find_entities(reader: Reader, question: Question, texts: Sequence[str]) -> Answers:
    """Split the texts into sentences and ask about each."""
    by_text = [_fitted(reader, question, unlabelled_examples(str(number), text)) for number, text in enumerate(texts)]
    parsed = _ask(reader, question, [example for examples in by_text for example in examples])
    found = iter(parsed)
    return Answers(
        entities=tuple(merge_predictions(examples, [next(found).entities for _ in examples]) for examples in by_text),
        asked=len(parsed),
        malformed=sum(one.malformed for one in parsed),
    )


def find_relations(
    reader: Reader, questions: Sequence[Question], texts: Sequence[str], heads: Sequence[Collection[Mention]]
) -> RelationAnswers:
    """Ask about each of the given heads of each text what its tails are; one question for each type of head.

    Raises:
        ValueError: There are not as many texts as sets of heads.
    """
    found: list[list[RelationMention]] = [[] for _ in texts]
    asked = malformed = 0
    for question in questions:
        by_text = [
            _fitted(reader, question, head_examples(str(number), text, _of_type(question.head_type, those)))
            for number, (text, those) in enumerate(zip(texts, heads, strict=True))
        ]
        about = [example for examples in by_text for example in examples]
        parsed = _ask(replace(reader, report=partial(_report_from, reader.report, asked)), question, about)
        answers = iter(parsed)
        for relations, examples in zip(found, by_text, strict=True):
            relations += merge_tails(examples, [next(answers).entities for _ in examples])
        asked += len(parsed)
        malformed += sum(one.malformed for one in parsed)
    return RelationAnswers(relations=tuple(tuple(sorted(one)) for one in found), asked=asked, malformed=malformed)


def _of_type(head_type: str | None, heads: Collection[Mention]) -> list[Mention]:
    return [head for head in heads if head.type == head_type]


def _fitted(reader: Reader, question: Question, examples: Sequence[Example]) -> tuple[Example, ...]:
    """The examples, each with a prompt that the model has room for, and an answer behind it."""
    context: int = getattr(reader.loaded.model.config, "max_position_embeddings", reader.max_length)
    room = max(context - question.task.max_new_tokens, context // 2)
    if not question.shots:
        room = min(room, reader.max_length)
    return fit(examples, lambda one: len(prompt_ids(reader.loaded.tokenizer, question.prompt(one))) <= room)


def _ask(reader: Reader, question: Question, examples: Sequence[Example]) -> list[ParsedAnswer]:
    task = question.task
    prompts = [prompt_ids(reader.loaded.tokenizer, question.prompt(example)) for example in examples]
    answers = decode(reader.loaded, prompts, task.max_new_tokens, reader.report)
    return [
        parse_answer(task.prompt_form, example.text, answer, question.labels)
        for example, answer in zip(examples, answers, strict=True)
    ]


def _report_from(report: Callable[[int], None], before: int, done: int) -> None:
    report(before + done)

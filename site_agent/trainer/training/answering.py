"""Texts through the model to entities and relations: asks, decodes and reads the answers. It neither trains nor scores.

A text of any length is asked about sentence by sentence, and what is found has its place in the whole text. Answers
that cannot be read count as missing: nothing here raises for what a model wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial

from site_agent.trainer.extraction.examples import Example, merge_predictions, unlabelled_examples
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


def find_entities(
    loaded: LoadedModel, question: Question, texts: Sequence[str], report: Callable[[int], None]
) -> Answers:
    """Split the texts into sentences and ask about each; ``report`` is told how many are done."""
    by_text = [unlabelled_examples(str(number), text) for number, text in enumerate(texts)]
    parsed = _ask(loaded, question, [example for examples in by_text for example in examples], report)
    found = iter(parsed)
    return Answers(
        entities=tuple(merge_predictions(examples, [next(found).entities for _ in examples]) for examples in by_text),
        asked=len(parsed),
        malformed=sum(one.malformed for one in parsed),
    )


def find_relations(
    loaded: LoadedModel,
    questions: Sequence[Question],
    texts: Sequence[str],
    heads: Sequence[Collection[Mention]],
    report: Callable[[int], None],
) -> RelationAnswers:
    """Ask about each of the given heads of each text what its tails are; one question for each type of head.

    Raises:
        ValueError: There are not as many texts as sets of heads.
    """
    known = {question.head_type for question in questions}
    by_text = [
        head_examples(str(number), text, [head for head in those if head.type in known])
        for number, (text, those) in enumerate(zip(texts, heads, strict=True))
    ]
    tails: dict[Example, ParsedAnswer] = {}
    for question in questions:
        about = [
            example
            for examples in by_text
            for example in examples
            if example.head is not None and example.head.type == question.head_type
        ]
        answers = _ask(loaded, question, about, partial(_report_from, report, len(tails)))
        tails.update(zip(about, answers, strict=True))
    return RelationAnswers(
        relations=tuple(merge_tails(examples, [tails[one].entities for one in examples]) for examples in by_text),
        asked=len(tails),
        malformed=sum(one.malformed for one in tails.values()),
    )


def _ask(
    loaded: LoadedModel, question: Question, examples: Sequence[Example], report: Callable[[int], None]
) -> list[ParsedAnswer]:
    task = question.task
    prompts = [prompt_ids(loaded.tokenizer, question.prompt(example)) for example in examples]
    answers = decode(loaded, prompts, task.max_new_tokens, report)
    return [
        parse_answer(task.prompt_form, example.text, answer, question.labels)
        for example, answer in zip(examples, answers, strict=True)
    ]


def _report_from(report: Callable[[int], None], before: int, done: int) -> None:
    report(before + done)

"""Annotated passages to tokenised examples: questions about every sentence, and their gold answers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from transformers import PreTrainedTokenizerBase

from common.errors import InputInvalidError, Reason
from common.label_schema import check_relation_types
from common.terms import LossOn, Task, TaskTerms, TrainingTerms
from site_agent.trainer.extraction.examples import Example, training_examples
from site_agent.trainer.extraction.passages import Passage
from site_agent.trainer.extraction.prompts import ChatMessage, build_answer, build_prompt, build_relation_prompt
from site_agent.trainer.extraction.relations import RolesByHead, gold_head_examples, roles_to_ask
from site_agent.trainer.extraction.scoring import scored_types
from site_agent.trainer.training.tokens import TokenizedExample, tokenize_example


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked: about every sentence, or about every head of one type.

    Attributes:
        labels: Entity types, or the roles of tails, to ask for: those of the task that the passages at hand annotate.
        head_type: Of the heads asked about; None for entities.
        shots: Worked examples that stand before the sentence.
    """

    task: TaskTerms
    labels: frozenset[str]
    head_type: str | None = None
    shots: tuple[Example, ...] = ()

    @property
    def is_of(self) -> Task:
        """The task of which this is a question."""
        return Task.ENTITIES if self.head_type is None else Task.RELATIONS

    def prompt(self, example: Example) -> tuple[ChatMessage, ...]:
        """The chat that ends with the question about ``example``."""
        if self.head_type is None:
            return build_prompt(self.task, example.text, self.labels, self.shots)
        return build_relation_prompt(self.task, example, self.labels, self.shots)

    def gold_examples(self, passages: Sequence[Passage]) -> Iterator[Example]:
        """What is asked about in these passages, with the gold answer."""
        for passage in passages:
            if self.head_type is None:
                yield from training_examples(passage)
            else:
                yield from gold_head_examples(passage, {self.head_type: self.labels})


def questions_about(passages: Sequence[Passage], task: TaskTerms, tasks: Collection[Task]) -> tuple[Question, ...]:
    """The questions of these tasks of the run that the passages have gold answers to: none, where they have none.

    Raises:
        InputInvalidError: SETTINGS_UNSUPPORTED, for a relation type that the label schema does not know.
    """
    check_relation_types(task.relation_types)
    types = scored_types(passages, task.entity_types)
    questions = []
    if types and Task.ENTITIES in task.tasks and Task.ENTITIES in tasks:
        questions.append(Question(task=task, labels=types))
    if Task.RELATIONS in tasks:
        roles = roles_to_ask(passages, task)
        questions += [Question(task=task, labels=labels, head_type=head) for head, labels in roles.items()]
    return tuple(questions)


def check_any(questions: Collection[Question], task: TaskTerms, tasks: Collection[Task]) -> None:
    """Refuse notes that have no gold answer to anything that the run asks of this site.

    Raises:
        InputInvalidError: NOTES_INVALID, expected against got.
    """
    if questions:
        return
    asked = [one for one in task.tasks if one in tasks]
    types = f"entities of {', '.join(task.entity_types)}"
    relations = f" with relations {', '.join(task.relation_types)}" if Task.RELATIONS in asked else ""
    expected = types + relations if asked else f"one of the run's tasks ({', '.join(task.tasks)}) to be trained here"
    raise InputInvalidError(Reason.NOTES_INVALID, f"notes: expected {expected}, got none")


def roles_of(questions: Collection[Question]) -> RolesByHead:
    """What the questions about relations ask, by type of head."""
    return {one.head_type: one.labels for one in questions if one.head_type is not None}


def tokenized_examples(
    tokenizer: PreTrainedTokenizerBase,
    question: Question,
    passages: Sequence[Passage],
    loss_on: LossOn,
) -> list[TokenizedExample]:
    """Everything that ``question`` asks about in the passages, with its gold answer, in order."""
    return [
        replace(
            tokenize_example(
                tokenizer,
                question.prompt(example),
                build_answer(question.task, example, question.labels),
                loss_on,
            ),
            task=question.is_of,
            is_empty=not any(mention.type in question.labels for mention in example.entities),
        )
        for example in question.gold_examples(passages)
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

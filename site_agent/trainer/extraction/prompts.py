"""What the model is asked, and what it should answer, in the paper's two forms. It tokenises nothing.

`span_form` and `json_form` define the answers. The schema stands in the user's turn, with real types in its sample,
because a small model does not follow it elsewhere: untrained SmolLM2-135M scores a strict F1 of 0.21 on drugs and
problems of 25 PHEE sentences, and 0.00 where the schema stands in the system's turn. It stands before the text, so
that all prompts of a set begin with the same tokens, which training and decoding compute once for many sentences.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import assert_never

from common.label_schema import check_entity_types
from common.terms import PromptForm, TaskTerms
from site_agent.trainer.extraction import json_form, span_form
from site_agent.trainer.extraction.examples import Example
from site_agent.trainer.extraction.mentions import flatten

# What a type's name does not say by itself.
_GLOSSES: Mapping[str, str] = MappingProxyType(
    {
        "adverse_effect": "what it did harm",
        "bodyloc": "body site",
        "condition": "under which it occurs",
        "course": "change over time",
        "form": "of a drug",
        "labvalue": "test result",
        "negation": "word that denies",
        "problem": "disease, symptom",
        "reference_range": "normal values",
        "strength": "of a drug",
        "subject": "whose, if not the patient's",
        "temporal": "time",
        "treatment": "procedure",
        "treats": "what it is given for",
        "uncertain": "word of doubt",
    }
)


# Without a system turn of ours, some chat templates add a longer one of theirs.
_SYSTEM = "You extract medical entities."
_SAMPLES = 2


class Role(StrEnum):
    """Who speaks, in the words of chat templates."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatMessage:
    """One turn of a chat, for the tokenizer's chat template."""

    role: Role
    content: str = field(repr=False)


def build_prompt(
    task: TaskTerms, sentence: str, entity_types: Iterable[str], shots: Sequence[Example] = ()
) -> tuple[ChatMessage, ...]:
    """The system's turn, a pair of turns for each worked example, and the sentence with the question.

    ``entity_types`` are the types to ask for: those of ``task`` that the set at hand annotates, so that a model is not
    taught that what was not annotated is not there.

    Raises:
        InputInvalidError: SETTINGS_UNSUPPORTED, for a type that the label schema does not know.
    """
    asked = check_entity_types(entity_types)
    example = Example(text=sentence, entities=(), offset=0, passage_id="")
    return _chat(_question(task.prompt_form, asked), task.prompt_form, example, shots, asked)


def build_relation_prompt(
    task: TaskTerms, example: Example, roles: Iterable[str], shots: Sequence[Example] = ()
) -> tuple[ChatMessage, ...]:
    """As `build_prompt`, about the example's head, which is marked in the sentence as a SPAN answer would mark it.

    The worked examples are of heads of the same type.
    """
    assert example.head is not None, "an example of relations has a head"
    asked = tuple(sorted(roles))
    question = _question(task.prompt_form, asked, example.head.type)
    return _chat(question, task.prompt_form, example, shots, asked)


def build_answer(task: TaskTerms, example: Example, labels: Iterable[str] | None = None) -> str:
    """What the model should answer: the example's entities of these labels, flat (`mentions.flatten`).

    ``labels`` are types, or the roles of tails; without any, the task's types.
    """
    return _answer(task.prompt_form, example, task.entity_types if labels is None else labels)


def _chat(
    question: str, form: PromptForm, example: Example, shots: Sequence[Example], labels: tuple[str, ...]
) -> tuple[ChatMessage, ...]:
    messages = [ChatMessage(role=Role.SYSTEM, content=_SYSTEM)]
    for shot in shots:
        messages.append(_asked(shot, question))
        messages.append(ChatMessage(role=Role.ASSISTANT, content=_answer(form, shot, labels)))
    return (*messages, _asked(example, question))


def _asked(example: Example, question: str) -> ChatMessage:
    text = example.text if example.head is None else span_form.write(example.text, [example.head])
    return ChatMessage(role=Role.USER, content=f"{question}\nText: {text}")


@lru_cache(maxsize=64)
def _question(form: PromptForm, labels: tuple[str, ...], head_type: str | None = None) -> str:
    names = ", ".join(f"{name} ({_GLOSSES[name]})" if name in _GLOSSES else name for name in labels)
    samples = labels[:_SAMPLES]
    wanted = f"the names of {names}" if head_type is None else f"{names} of the marked {head_type}"
    match form:
        case PromptForm.SPAN:
            tags = ", ".join(f'<span class="{name}">...</span>' for name in samples)
            text = "the text" if head_type is None else "the text without its mark and"
            return f"Rewrite {text} with tags around {wanted}: {tags}"
        case PromptForm.JSON:
            pairs = ",".join(f'{{"{name}":"..."}}' for name in samples)
            return f"List {wanted} in the text as JSON: [{pairs}]"
        case _:
            assert_never(form)


def _answer(form: PromptForm, example: Example, labels: Iterable[str]) -> str:
    asked = frozenset(labels)
    mentions = flatten(mention for mention in example.entities if mention.type in asked)
    match form:
        case PromptForm.SPAN:
            return span_form.write(example.text, mentions)
        case PromptForm.JSON:
            return json_form.write(example.text, mentions)
        case _:
            assert_never(form)

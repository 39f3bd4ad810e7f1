"""What the model is asked, and what it should answer, in the paper's two forms. It tokenises nothing.

`span_form` and `json_form` define the answers. The fixed part of a prompt stays under 60 tokens for the four main
types: a small model on a CPU pays for every one of them in every example.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType
from typing import assert_never

from common.terms import PromptForm, TaskTerms
from site_agent.trainer.extraction import json_form, span_form
from site_agent.trainer.extraction.examples import Example
from site_agent.trainer.extraction.label_schema import check_entity_types
from site_agent.trainer.extraction.mentions import flatten

# What a type's name does not say by itself.
_GLOSSES: Mapping[str, str] = MappingProxyType(
    {
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
        "uncertain": "word of doubt",
    }
)


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
    """The system turn with the schema, a pair of turns for each worked example, and the sentence.

    ``entity_types`` are the types to ask for: those of ``task`` that the set at hand annotates, so that a model is not
    taught that what was not annotated is not there.

    Raises:
        InputInvalidError: SETTINGS_UNSUPPORTED, for a type that the label schema does not know.
    """
    asked = check_entity_types(entity_types)
    messages = [ChatMessage(role=Role.SYSTEM, content=_instruction(task.prompt_form, asked))]
    for shot in shots:
        messages.append(ChatMessage(role=Role.USER, content=shot.text))
        messages.append(ChatMessage(role=Role.ASSISTANT, content=_answer(task.prompt_form, shot, asked)))
    return (*messages, ChatMessage(role=Role.USER, content=sentence))


def build_answer(task: TaskTerms, example: Example) -> str:
    """What the model should answer: the example's entities of the task's types, flat (`mentions.flatten`)."""
    return _answer(task.prompt_form, example, task.entity_types)


@lru_cache(maxsize=64)
def _instruction(form: PromptForm, entity_types: tuple[str, ...]) -> str:
    glossed = (f"{name} ({_GLOSSES[name]})" if name in _GLOSSES else name for name in entity_types)
    types = f"Types: {', '.join(glossed)}."
    match form:
        case PromptForm.SPAN:
            sample = f'<span class="{entity_types[0]}">...</span>'
            return f"Rewrite the text with each medical entity in tags, like {sample}. {types}"
        case PromptForm.JSON:
            sample = ",".join(f'{{"{name}":"..."}}' for name in entity_types[:2])
            return f"List the medical entities of the text in order as JSON, like [{sample}]. {types}"
        case _:
            assert_never(form)


def _answer(form: PromptForm, example: Example, entity_types: Iterable[str]) -> str:
    asked = frozenset(entity_types)
    mentions = flatten(mention for mention in example.entities if mention.type in asked).kept
    match form:
        case PromptForm.SPAN:
            return span_form.write(example.text, mentions)
        case PromptForm.JSON:
            return json_form.write(example.text, mentions)
        case _:
            assert_never(form)

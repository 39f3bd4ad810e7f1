"""A model's answer to entities with exact character offsets. The two forms are read by `span_form` and `json_form`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import assert_never

from common.terms import PromptForm
from site_agent.trainer.extraction import json_form, span_form
from site_agent.trainer.extraction.mentions import Mention

# What 8192 new tokens, the most that terms allow, can come to and more; the rest is not read.
MAX_ANSWER_CHARACTERS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedAnswer:
    """What an answer says.

    Attributes:
        entities: Sorted, each once, by offsets into the sentence.
        malformed: Whether the answer breaks its form; what could be read of it is in ``entities`` all the same.
    """

    entities: tuple[Mention, ...]
    malformed: bool


def parse_answer(form: PromptForm, sentence: str, answer: str, entity_types: Collection[str]) -> ParsedAnswer:
    """Read an answer; entities of types that were not asked for, and words that are not in the sentence, are dropped.

    It never raises, and it gives back the entities that an answer was built from: in the SPAN form always; in the JSON
    form when each is the first whole-word occurrence of its words behind the entity before it (which
    `prompts.build_answer` cannot say otherwise without spending tokens on it).
    """
    read = answer[:MAX_ANSWER_CHARACTERS]
    match form:
        case PromptForm.SPAN:
            mentions, malformed = span_form.read(sentence, read, entity_types)
        case PromptForm.JSON:
            mentions, malformed = json_form.read(sentence, read, entity_types)
        case _:
            assert_never(form)
    return ParsedAnswer(
        entities=tuple(sorted(set(mentions))), malformed=malformed or len(answer) > MAX_ANSWER_CHARACTERS
    )

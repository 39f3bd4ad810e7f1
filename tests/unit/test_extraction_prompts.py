"""Prompts and answers in both forms, word for word. Reading answers back is tested with the parser."""

from __future__ import annotations

import dataclasses

import pytest

from common.errors import InputInvalidError
from common.label_schema import ENTITY_TYPES
from common.terms import PromptForm, TaskTerms
from site_agent.trainer.extraction.examples import Example
from site_agent.trainer.extraction.mentions import Mention
from site_agent.trainer.extraction.prompts import Role, build_answer, build_prompt

JSON = TaskTerms(prompt_form=PromptForm.JSON)
SPAN = TaskTerms(prompt_form=PromptForm.SPAN)


def example(text: str, *mentions: tuple[str, str]) -> Example:
    """An example with a mention at the first occurrence of each of the given words."""
    entities = tuple(
        Mention(start=text.index(words), end=text.index(words) + len(words), type=kind) for kind, words in mentions
    )
    return Example(text=text, entities=entities, offset=0, passage_id="p-1")


PAIN = example("Aspirin for chest pain at 5 mg", ("drug", "Aspirin"), ("problem", "chest pain"), ("dosage", "5 mg"))


def test_a_json_prompt_asks_before_the_sentence_for_the_types_of_the_set() -> None:
    assert [(turn.role, turn.content) for turn in build_prompt(JSON, "Some pain.", ("problem", "drug"))] == [
        (Role.SYSTEM, "You extract medical entities."),
        (
            Role.USER,
            "List the names of drug, problem (disease, symptom) in the text as JSON: "
            '[{"drug":"..."},{"problem":"..."}]\nText: Some pain.',
        ),
    ]


def test_a_span_prompt_shows_the_tags() -> None:
    *_, last = build_prompt(SPAN, "Some pain.", ("problem", "drug"))
    assert last.content == (
        "Rewrite the text with tags around the names of drug, problem (disease, symptom): "
        '<span class="drug">...</span>, <span class="problem">...</span>\nText: Some pain.'
    )


def test_the_prompt_names_no_type_that_is_not_asked_for() -> None:
    *_, last = build_prompt(JSON, "x", ("problem",))
    assert not [name for name in ENTITY_TYPES if name != "problem" and name in last.content]


@pytest.mark.parametrize("task", [JSON, SPAN])
def test_worked_examples_are_turns_with_the_same_question(task: TaskTerms) -> None:
    prompt = build_prompt(task, "Some pain.", ("drug", "problem"), [PAIN, PAIN])
    assert [turn.role for turn in prompt] == [
        Role.SYSTEM,
        *(Role.USER, Role.ASSISTANT) * 2,
        Role.USER,
    ]
    assert prompt[1].content == prompt[-1].content.replace("Some pain.", PAIN.text)
    assert prompt[2].content == build_answer(dataclasses.replace(task, entity_types=("drug", "problem")), PAIN)


def test_worked_examples_answer_only_what_is_asked() -> None:
    assert build_prompt(JSON, "x", ("problem",), [PAIN])[2].content == '[{"problem":"chest pain"}]'


def test_a_type_that_the_schema_does_not_know_is_refused() -> None:
    with pytest.raises(InputInvalidError):
        build_prompt(JSON, "x", ("gene",))


def test_a_json_answer_lists_the_entities_of_the_task_in_order() -> None:
    assert build_answer(JSON, PAIN) == '[{"drug":"Aspirin"},{"problem":"chest pain"}]'


def test_a_span_answer_rewrites_the_sentence() -> None:
    assert build_answer(SPAN, PAIN) == (
        '<span class="drug">Aspirin</span> for <span class="problem">chest pain</span> at 5 mg'
    )


def test_an_empty_answer_is_an_empty_list_or_the_sentence_itself() -> None:
    assert build_answer(JSON, example("At rest.")) == "[]"
    assert build_answer(SPAN, example("At rest.")) == "At rest."


def test_a_json_answer_escapes_only_what_json_must() -> None:
    text = 'β-"blocker"\n<é>'
    assert build_answer(JSON, example(text, ("drug", text))) == '[{"drug":"β-\\"blocker\\"\\n<é>"}]'


def test_a_span_answer_escapes_only_what_could_be_read_as_a_tag_or_an_escape() -> None:
    text = 'BP <90 & >60 <b> </span> <SPAN class="drug"> &lt; &gt;'
    assert build_answer(SPAN, example(text)) == ('BP <90 & >60 <b> &lt;/span> &lt;SPAN class="drug"> &amp;lt; &gt;')


def test_of_nested_entities_the_longest_is_in_the_answer() -> None:
    nested = example("acute chest pain", ("problem", "pain"), ("problem", "chest pain"))
    assert build_answer(JSON, nested) == '[{"problem":"chest pain"}]'


def test_a_nested_entity_is_in_the_answer_when_the_longer_one_is_not_asked_for() -> None:
    nested = example("grade 2 asthma", ("problem", "asthma"), ("severity", "grade 2 asthma"))
    assert build_answer(JSON, nested) == '[{"problem":"asthma"}]'


def test_the_text_of_a_turn_is_not_in_its_representation() -> None:
    assert "pain" not in repr(build_prompt(JSON, "Some pain.", ("drug",)))

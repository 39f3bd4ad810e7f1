"""Reading answers of both forms, whole, altered and broken. Round trips of arbitrary examples are property tests."""

from __future__ import annotations

import pytest

from common.terms import PromptForm
from site_agent.trainer.extraction.parsing import MAX_ANSWER_CHARACTERS, ParsedAnswer, parse_answer

ASKED = ("drug", "problem")
SENTENCE = "Aspirin for chest pain, not for pain at rest."


def parsed(form: PromptForm, sentence: str, answer: str) -> ParsedAnswer:
    return parse_answer(form, sentence, answer, ASKED)


def found(form: PromptForm, sentence: str, answer: str) -> list[tuple[str, int, str]]:
    """Type, start and words of what is found in an answer."""
    return [(one.type, one.start, sentence[one.start : one.end]) for one in parsed(form, sentence, answer).entities]


def span(answer: str, sentence: str = SENTENCE) -> list[tuple[str, int, str]]:
    return found(PromptForm.SPAN, sentence, answer)


def listed(answer: str, sentence: str = SENTENCE) -> list[tuple[str, int, str]]:
    return found(PromptForm.JSON, sentence, answer)


def is_malformed(form: PromptForm, answer: str, sentence: str = SENTENCE) -> bool:
    return parsed(form, sentence, answer).malformed


# --- the SPAN form


def test_tags_give_exact_offsets() -> None:
    answer = '<span class="drug">Aspirin</span> for chest pain, not for <span class="problem">pain</span> at rest.'
    assert span(answer) == [("drug", 0, "Aspirin"), ("problem", 32, "pain")]
    assert not is_malformed(PromptForm.SPAN, answer)


def test_a_tag_inside_a_word_gives_exact_offsets() -> None:
    assert span('anti<span class="problem">coagulat</span>ion', "anticoagulation") == [("problem", 4, "coagulat")]


def test_escapes_are_undone() -> None:
    answer = 'BP &lt;span <span class="problem">a &amp;lt; b</span>'
    assert span(answer, "BP <span a &lt; b") == [("problem", 9, "a &lt; b")]


@pytest.mark.parametrize(
    "answer",
    [
        'Aspirin for <span class="problem">CHEST  PAIN</span>, not for pain at rest.',
        'Aspirin for <span class="problem"> chest pain </span>, not for pain at rest.',
        'aspirin , <span class="problem">chest pain</span>, not for pain at rest',
        'Here it is:\nAspirin for <span class="problem">chest pain</span>, not for pain at rest.',
        'for <span class="problem">chest pain</span>, not pain',
        'Aspirin for <span class="problem">chest</span pain</span>, not for pain at rest.',
        'Aspirin for <span class="problem">chst pain</span>, not for pain at rest.',
        "Aspirin for <SPAN CLASS = 'Problem'>chest pain</SPAN >, not for pain at rest.",
    ],
)
def test_an_altered_copy_is_aligned_to_the_sentence(answer: str) -> None:
    assert [one for one in span(answer) if one[1] == 12] == [("problem", 12, "chest pain")]


def test_a_misspelt_word_stands_for_the_one_in_its_place() -> None:
    assert span('<span class="drug">Asprin</span> for chest pain, not for pain at rest.') == [("drug", 0, "Aspirin")]


def test_a_word_put_in_moves_nothing_behind_it() -> None:
    answer = 'Aspirin given for chest pain, not for <span class="problem">pain</span> at rest.'
    assert span(answer) == [("problem", 32, "pain")]


def test_a_word_left_out_inside_an_entity_is_part_of_it() -> None:
    answer = '<span class="problem">Aspirin chest pain</span>, not for pain at rest.'
    assert span(answer) == [("problem", 0, "Aspirin for chest pain")]


def test_more_words_than_were_copied_are_part_of_the_entity_that_they_stand_in() -> None:
    answer = '<span class="problem">severe thoracic</span> pain'
    assert span(answer, "severe chest wall pain") == [("problem", 0, "severe chest wall")]


def test_a_tag_inside_a_word_of_an_altered_copy_gives_exact_offsets() -> None:
    answer = 'anti<span class="problem">coagul</span>ation now'
    assert span(answer, "on anticoagulation now") == [("problem", 7, "coagul")]


def test_words_that_are_not_in_the_sentence_are_dropped() -> None:
    assert span('Ibuprofen may also cause <span class="problem">severe headache</span> and more') == []


def test_a_repetition_finds_a_place_once() -> None:
    tagged = '<span class="drug">Aspirin</span> '
    assert span(tagged * 50) == [("drug", 0, "Aspirin")]


def test_a_truncated_copy_keeps_its_whole_tags() -> None:
    answer = '<span class="drug">Aspirin</span> for <span class="problem">chest pa'
    assert span(answer) == [("drug", 0, "Aspirin")]


def test_tags_of_types_not_asked_for_are_dropped() -> None:
    answer = 'Aspirin for <span class="test">chest pain</span>, not for pain at rest.'
    assert span(answer) == []
    assert not is_malformed(PromptForm.SPAN, answer)


@pytest.mark.parametrize(
    "answer",
    [
        SENTENCE + "</span>",
        '<span class="drug">' + SENTENCE,
        "<span>Aspirin</span> for chest pain, not for pain at rest.",
        SENTENCE.replace("chest", "breast"),
        SENTENCE[:-1],
        "",
    ],
)
def test_an_answer_that_breaks_the_span_form_is_malformed(answer: str) -> None:
    assert is_malformed(PromptForm.SPAN, answer)


def test_other_white_space_alone_does_not_break_the_span_form() -> None:
    assert not is_malformed(PromptForm.SPAN, f"\n{SENTENCE}  ".replace("for", " for\n"))


# --- the JSON form


def test_a_list_gives_exact_offsets() -> None:
    answer = '[{"drug":"Aspirin"},{"problem":"chest pain"}]'
    assert listed(answer) == [("drug", 0, "Aspirin"), ("problem", 12, "chest pain")]
    assert not is_malformed(PromptForm.JSON, answer)


def test_an_empty_list_is_an_answer() -> None:
    assert parsed(PromptForm.JSON, SENTENCE, " []\n") == ParsedAnswer(entities=(), malformed=False)


def test_repeated_words_are_found_from_left_to_right() -> None:
    sentence = "pain, then no pain, then pain"
    assert [start for _, start, _ in listed('[{"problem":"pain"},{"problem":"pain"}]', sentence)] == [0, 14]


def test_words_are_found_behind_the_entity_before_them() -> None:
    sentence = "No pain. Aspirin for pain"
    assert listed('[{"drug":"Aspirin"},{"problem":"pain"}]', sentence)[1] == ("problem", 21, "pain")


def test_no_character_is_part_of_two_entities() -> None:
    assert listed('[{"problem":"chest pain"},{"problem":"pain"}]', "chest pain") == [("problem", 0, "chest pain")]


def test_words_named_out_of_order_are_found() -> None:
    assert listed('[{"problem":"pain"},{"drug":"Aspirin"}]') == [("drug", 0, "Aspirin"), ("problem", 18, "pain")]


def test_more_repetitions_than_occurrences_are_dropped() -> None:
    assert len(listed("[" + ",".join(['{"problem":"pain"}'] * 9) + "]")) == 2


def test_whole_words_come_before_parts_of_words() -> None:
    sentence = "painful, but no pain"
    assert listed('[{"problem":"pain"}]', sentence) == [("problem", 16, "pain")]
    assert listed('[{"problem":"painf"}]', sentence) == [("problem", 0, "painf")]


def test_case_and_white_space_are_ignored_where_nothing_else_is_found() -> None:
    sentence = "CHEST\n pain or chest pain"
    assert listed('[{"problem":"chest pain"}]', sentence) == [("problem", 15, "chest pain")]
    assert listed('[{"problem":"Chest Pain"}]', sentence) == [("problem", 0, "CHEST\n pain")]


def test_words_with_pattern_characters_are_taken_literally() -> None:
    assert listed('[{"drug":"[3H](+)-x.?"}]', "of [3H](+)-x.? here") == [("drug", 3, "[3H](+)-x.?")]


@pytest.mark.parametrize("words", ["Ibuprofen", "", "  ", "x" * 500])
def test_words_that_are_not_in_the_sentence_are_no_entity(words: str) -> None:
    answer = f'[{{"problem":"{words}"}}]'
    assert listed(answer) == []
    assert not is_malformed(PromptForm.JSON, answer)


def test_types_not_asked_for_are_dropped() -> None:
    assert listed('[{"test":"chest pain"},{"drug":"Aspirin"}]') == [("drug", 0, "Aspirin")]


@pytest.mark.parametrize(
    "answer",
    [
        '[{"type":"drug","text":"Aspirin"},{"text":"chest pain","type":"problem"}]',
        '[{"drug":"Aspirin","problem":"chest pain"}]',
        '[ {"Drug": "Aspirin"} , {" problem": "chest pain"} ]',
    ],
)
def test_other_lists_of_objects_of_strings_are_read_too(answer: str) -> None:
    assert listed(answer) == [("drug", 0, "Aspirin"), ("problem", 12, "chest pain")]
    assert not is_malformed(PromptForm.JSON, answer)


def test_a_key_given_twice_counts_twice() -> None:
    assert len(listed('[{"problem":"chest pain","problem":"pain"}]')) == 2


@pytest.mark.parametrize(
    "answer",
    [
        '[{"drug":"Aspirin"},{"problem":"chest pain"},{"problem":"pa',
        '[{"drug":"Aspirin"},{"problem":"chest pain"}',
        '{"drug":"Aspirin"}\n{"problem":"chest pain"}',
        '```json\n[{"drug":"Aspirin"},{"problem":"chest pain"}]\n```',
        'Here: [{"drug":"Aspirin"},{"problem":"chest pain"}] I hope { this helps',
        '{"drug":["Aspirin"],"problem":["chest pain"]}',
        '{"entities":[{"drug":"Aspirin"},{"problem":"chest pain"}]}',
        '[{"drug":"Aspirin"},7,null,["x"],{"problem":"chest pain"}]',
        '[{"drug":"Aspirin"},{"problem":"chest pain"},{"problem":7}]',
        '[{"drug":"Aspirin"},{"problem":"chest pain"},{}]',
    ],
)
def test_whole_objects_of_a_broken_answer_count_and_it_is_malformed(answer: str) -> None:
    assert listed(answer) == [("drug", 0, "Aspirin"), ("problem", 12, "chest pain")]
    assert is_malformed(PromptForm.JSON, answer)


def test_an_object_of_a_broken_answer_counts_once() -> None:
    assert listed('[{"problem":"pain"},') == [("problem", 18, "pain")]


@pytest.mark.parametrize(
    "answer",
    ["", "chest pain", "{", "null", '"drug"', "[" * 100_000, '{"a":' * 20_000, '{"a":' * 9_000 + "1" + "}" * 9_000],
)
def test_an_answer_without_objects_is_malformed_and_empty(answer: str) -> None:
    assert parsed(PromptForm.JSON, SENTENCE, answer) == ParsedAnswer(entities=(), malformed=True)


@pytest.mark.parametrize("form", PromptForm)
def test_an_endless_answer_is_read_up_to_the_limit(form: PromptForm) -> None:
    start = {PromptForm.JSON: '[{"drug":"Aspirin"},', PromptForm.SPAN: '<span class="drug">Aspirin</span> '}[form]
    endless = start + " " * MAX_ANSWER_CHARACTERS + '{"problem":"pain"} <span class="problem">pain</span>'
    assert found(form, SENTENCE, endless) == [("drug", 0, "Aspirin")]
    assert is_malformed(form, endless)

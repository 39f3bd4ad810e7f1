"""Reading answers: never an exception, always sound offsets, and the entities that an answer was built from."""

from __future__ import annotations

import re

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from common.terms import PromptForm, TaskTerms
from site_agent.trainer.extraction.examples import Example
from site_agent.trainer.extraction.mentions import Mention, flatten
from site_agent.trainer.extraction.parsing import ParsedAnswer, parse_answer
from site_agent.trainer.extraction.prompts import build_answer
from site_agent.trainer.extraction.span_form import escape, unescape

ASKED = ("drug", "problem")
MARKS = [
    '<span class="drug">',
    '<span class="problem">',
    "<span",
    "</span>",
    "</",
    "<",
    ">",
    "&",
    "&lt;",
    "&amp;",
    "lt;",
]
JSON_MARKS = [
    '{"drug":"',
    '{"problem":"',
    '"}',
    "[",
    "]",
    ",",
    '"type":"drug"',
    '"text":"',
    "{",
    "}",
    "\\",
    ":",
    "null",
]
WORDS = ["pain", "Pain", "chest pain", "aspirin", " ", "\n", ",", "-", "β", "İ", "ß", "\u2028", '"', "\ud800"]
SENTENCES = st.lists(st.sampled_from(WORDS + MARKS) | st.text(max_size=4), max_size=15).map("".join)
ANSWERS = st.lists(st.sampled_from(WORDS + MARKS + JSON_MARKS) | st.text(max_size=4), max_size=30).map("".join)


@st.composite
def _examples(draw: st.DrawFn) -> Example:
    text = draw(SENTENCES)
    cuts = draw(st.lists(st.integers(0, len(text)), max_size=8, unique=True).map(sorted))
    types = draw(st.lists(st.sampled_from([*ASKED, "test"]), min_size=len(cuts), max_size=len(cuts)))
    pairs = zip(cuts[::2], cuts[1::2], types, strict=False)
    entities = tuple(Mention(start=start, end=end, type=kind) for start, end, kind in pairs)
    return Example(text=text, entities=entities, offset=0, passage_id="p")


def _gold(case: Example) -> tuple[Mention, ...]:
    return tuple(one for one in case.entities if one.type in ASKED)


def _round_trip(form: PromptForm, case: Example) -> ParsedAnswer:
    answer = build_answer(TaskTerms(entity_types=ASKED, prompt_form=form), case)
    return parse_answer(form, case.text, answer, ASKED)


def _is_unambiguous(case: Example) -> bool:
    """Whether each entity is the first whole-word occurrence of its words behind the entity before it."""
    end = 0
    for one in _gold(case):
        words = case.text[one.start : one.end]
        first = re.compile(rf"(?<!\w){re.escape(words)}(?!\w)").search(case.text, end)
        if not words.strip() or first is None or first.start() != one.start:
            return False
        end = one.end
    return True


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(PromptForm), SENTENCES, ANSWERS)
@example(PromptForm.JSON, "pain", '{"a":' * 5000)
@example(PromptForm.SPAN, "", '<span class="drug">pain</span>')
def test_no_answer_raises_and_what_is_found_lies_in_the_sentence(form: PromptForm, sentence: str, answer: str) -> None:
    parsed = parse_answer(form, sentence, answer, ASKED)
    assert all(0 <= one.start < one.end <= len(sentence) and one.type in ASKED for one in parsed.entities)
    assert list(parsed.entities) == sorted(set(parsed.entities))


@settings(deadline=None, max_examples=300)
@given(SENTENCES, ANSWERS)
def test_entities_of_a_json_answer_never_overlap(sentence: str, answer: str) -> None:
    entities = parse_answer(PromptForm.JSON, sentence, answer, ASKED).entities
    assert flatten(entities) == entities


@settings(deadline=None, max_examples=300)
@given(_examples())
def test_a_span_answer_gives_back_what_it_was_built_from(case: Example) -> None:
    assert _round_trip(PromptForm.SPAN, case) == ParsedAnswer(entities=_gold(case), malformed=False)


@settings(deadline=None, max_examples=300)
@given(_examples())
def test_a_json_answer_gives_back_what_it_was_built_from_unless_it_is_ambiguous(case: Example) -> None:
    assume(_is_unambiguous(case))
    assert _round_trip(PromptForm.JSON, case) == ParsedAnswer(entities=_gold(case), malformed=False)


@settings(deadline=None)
@given(SENTENCES)
def test_unescaping_undoes_escaping_and_leaves_no_tag(text: str) -> None:
    assert unescape(escape(text)) == text
    assert not re.search(r"</?span", escape(text), re.IGNORECASE)


@settings(deadline=None)
@given(_examples(), st.integers(0, 8))
def test_a_span_answer_cut_off_behind_an_entity_gives_back_all_up_to_there(case: Example, kept: int) -> None:
    answer = build_answer(TaskTerms(entity_types=ASKED, prompt_form=PromptForm.SPAN), case)
    tags = [tag.end() for tag in re.finditer("</span>", answer)]
    beginning = answer[: ([0, *tags])[min(kept, len(tags))]]
    assert parse_answer(PromptForm.SPAN, case.text, beginning, ASKED).entities == _gold(case)[:kept]

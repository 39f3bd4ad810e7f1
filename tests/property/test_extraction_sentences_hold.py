"""What holds of every split into sentences, and of the way from a passage to examples and back."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from site_agent.trainer.extraction.examples import merge_predictions, training_examples, unlabelled_examples
from site_agent.trainer.extraction.mentions import Span
from site_agent.trainer.extraction.passages import Entity, Passage
from site_agent.trainer.extraction.sentences import MAX_SENTENCE_CHARACTERS, split_sentences

WORDS = ("Dr.", "Fig. 3", "pain", "Pain", "2.5", "mg.", "A.", "e.g.", "- ", "1. ", "x" * 70, "Aspirin " * 130)
MARKS = (" ", "  ", "\n", "\r\n", "\n\n", ".", ". ", "?", "!\n", "(", ")", "\u2028", "\ufeff")
PARTS = st.sampled_from(WORDS + MARKS)
TEXTS = st.lists(PARTS | st.text(max_size=5), max_size=40).map("".join)


@st.composite
def _passages(draw: st.DrawFn) -> Passage:
    text = draw(TEXTS.filter(bool))
    words = [match.span() for match in re.finditer(r"\S", text)]
    chosen = draw(st.lists(st.tuples(st.sampled_from(words), st.sampled_from(words)), max_size=4)) if words else []
    entities = tuple(
        Entity(id=f"T{index}", type="drug", start=min(first, second)[0], end=max(first, second)[1])
        for index, (first, second) in enumerate(chosen)
    )
    return Passage(id="p", text=text, entities=entities, relations=(), document="d")


def _is_visible(character: str) -> bool:
    return not character.isspace() and character not in "\u200b\ufeff"


@settings(deadline=None)
@given(TEXTS)
def test_every_visible_character_is_in_exactly_one_sentence(text: str) -> None:
    covered = [offset for span in split_sentences(text) for offset in range(span.start, span.end)]
    assert covered == sorted(set(covered))
    assert {offset for offset, character in enumerate(text) if _is_visible(character)} <= set(covered)


@settings(deadline=None)
@given(TEXTS)
def test_sentences_begin_and_end_visibly_and_are_short_where_they_can_be(text: str) -> None:
    for span in split_sentences(text):
        assert _is_visible(text[span.start])
        assert _is_visible(text[span.end - 1])
        if span.end - span.start > MAX_SENTENCE_CHARACTERS:
            assert not re.search(r"\s", text[span.start : span.start + MAX_SENTENCE_CHARACTERS])


@settings(deadline=None)
@given(_passages())
def test_no_gold_entity_is_cut(passage: Passage) -> None:
    protected = [Span(start=entity.start, end=entity.end) for entity in passage.entities]
    sentences = split_sentences(passage.text, protected)
    for entity in passage.entities:
        touched = [span for span in sentences if span.start < entity.end and entity.start < span.end]
        assert len(touched) <= 1


@settings(deadline=None)
@given(_passages())
def test_gold_entities_come_back_from_training_examples(passage: Passage) -> None:
    examples = training_examples(passage)
    merged = merge_predictions(examples, [example.entities for example in examples])
    for example in examples:
        assert passage.text[example.offset :].startswith(example.text)
    visible = {
        entity.mention
        for entity in passage.entities
        if _is_visible(passage.text[entity.start]) and _is_visible(passage.text[entity.end - 1])
    }
    assert visible <= set(merged)


@settings(deadline=None)
@given(TEXTS)
def test_protecting_nothing_changes_nothing(text: str) -> None:
    unprotected = [Span(start=0, end=0), Span(start=0, end=1)]
    assert split_sentences(text, unprotected) == split_sentences(text)
    assert [example.text for example in unlabelled_examples("p", text)] == [
        text[span.start : span.end] for span in split_sentences(text)
    ]

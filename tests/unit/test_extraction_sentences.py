"""Where sentences end in clinical text. Whether the split covers a text is a property test."""

from __future__ import annotations

import pytest

from site_agent.trainer.extraction.mentions import Span
from site_agent.trainer.extraction.sentences import MAX_SENTENCE_CHARACTERS, split_sentences


def split(text: str, *protected: str) -> list[str]:
    """The sentences of ``text``, with the first occurrences of ``protected`` protected."""
    spans = [Span(start=text.index(words), end=text.index(words) + len(words)) for words in protected]
    return [text[span.start : span.end] for span in split_sentences(text, spans)]


@pytest.mark.parametrize(
    "sentence",
    [
        "It is shown (Fig. 2, arrow) as in no. 7 and ref. 12 of Mar. 3.",
        "Dr. Smith and Mrs. O'Hara of St. Mary saw him.",
        "Give a statin, e.g. Lipitor, i.e. Atorvastatin, vs. Placebo.",
        "Reported by Jones et al. (2001) for ca. 10 cases.",
        "The dose was 2.5 mg. daily for 10 days.",
        "It maps to 19p13. 3 and lies near 6. 7 in the map.",
        "John F. Kennedy and Dr. J. R. Brown agreed (J. M. Whaley too).",
        "1. Aspirin daily",
        "a. Aspirin daily",
        "Urine cotinine ? 100 ng/ml",
        "No stop at the end",
        "He asked for water, p.o. and i.v., and slept.",
    ],
)
def test_a_full_stop_that_ends_no_sentence_splits_nothing(sentence: str) -> None:
    assert split(sentence) == [sentence]


@pytest.mark.parametrize(
    "sentences",
    [
        ["He had pain.", "Aspirin was given."],
        ["Pain?", "Yes!", "Aspirin was given..", "He slept."],
        ['He said "it hurts."', "(He slept.)", "Then he left."],
        ["Given 5 mg i.v.", "The patient slept."],
        ["He has hepatitis B.", "The liver is large."],
        ["It was grade 2.", "Surgery followed."],
        ["He took 5 mg.", "3 days later he left."],
        ["1. Aspirin daily.", "Metformin too."],
    ],
)
def test_sentences_end_at_full_stops_question_and_exclamation_marks(sentences: list[str]) -> None:
    assert split(" ".join(sentences)) == sentences


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r", "\n\n", " \n  ", "\f", "\u2028"])
def test_lines_of_a_list_are_sentences(line_end: str) -> None:
    lines = ["MEDICATIONS:", "- aspirin 81 mg", "- metformin", "2. severe asthma"]
    assert split(line_end.join(lines)) == lines


WRAPPED = "The patient is a 63 year old man with a long history of chest"


def test_a_line_wrapped_at_a_margin_goes_on_in_the_next() -> None:
    text = f"{WRAPPED}\npain and fatigue.\nHe smokes."
    assert split(text) == [f"{WRAPPED}\npain and fatigue.", "He smokes."]


def test_a_blank_line_ends_a_wrapped_line_too() -> None:
    assert split(f"{WRAPPED}\n\npain") == [WRAPPED, "pain"]


def test_lines_are_not_wrapped_where_the_text_has_longer_ones() -> None:
    longer = f"{WRAPPED} pain, fatigue, nausea, vomiting, oedema"
    assert split(f"{WRAPPED}\nno history of asthma\n{longer}") == [WRAPPED, "no history of asthma", longer]


def test_a_short_line_is_an_item_whatever_follows() -> None:
    assert split("known asthma\nno smoking") == ["known asthma", "no smoking"]


def test_a_protected_span_is_never_cut() -> None:
    text = "He took Vit. D and Vit. C daily.\nNo pain."
    assert split(text) == ["He took Vit.", "D and Vit.", "C daily.", "No pain."]
    assert split(text, "Vit. D") == ["He took Vit. D and Vit.", "C daily.", "No pain."]
    assert split(text, "Vit. D", "D and Vit. C", "daily.\nNo") == [text]


def test_a_span_that_ends_at_a_sentence_end_joins_nothing() -> None:
    assert split("He has pain. She sleeps.", "pain.", "She") == ["He has pain.", "She sleeps."]


def test_a_stretch_without_an_end_is_cut_at_white_space() -> None:
    text = "glucose 5 " * 250
    pieces = split(text)
    assert len(pieces) == 3
    assert all(len(piece) <= MAX_SENTENCE_CHARACTERS for piece in pieces)
    assert " ".join(pieces) == text.strip()


def test_a_long_stretch_is_not_cut_inside_a_protected_span() -> None:
    protected = "severe chest pain at rest"
    text = "x " * 490 + protected + " y" * 100
    assert any(protected in piece for piece in split(text, protected))
    assert not any(protected in piece for piece in split(text))


def test_a_long_stretch_without_white_space_stays_whole() -> None:
    assert split("x" * 3000) == ["x" * 3000]


@pytest.mark.parametrize("text", ["", " \n\t ", "\ufeff\u200b\n"])
def test_a_text_of_nothing_visible_has_no_sentences(text: str) -> None:
    assert split(text) == []

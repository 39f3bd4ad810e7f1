"""Entities as one label a word, and back: what overlaps, what is cut by a word, what nobody annotated."""

from __future__ import annotations

import pytest

from lab.encoder.labels import allowed_labels, label_count, labels_of, mentions_of
from site_agent.trainer.extraction.mentions import Mention, Span

TYPES = ("drug", "problem")
O, B_DRUG, I_DRUG, B_PROBLEM, I_PROBLEM = range(5)  # noqa: E741
# "severe renal failure after 10mg": words by their places
WORDS = [
    Span(start=0, end=6),
    Span(start=7, end=12),
    Span(start=13, end=20),
    Span(start=21, end=26),
    Span(start=27, end=31),
]


def of(start: int, end: int, kind: str = "problem") -> Mention:
    return Mention(start=start, end=end, type=kind)


def test_there_are_a_label_for_outside_and_two_for_each_type() -> None:
    assert label_count(TYPES) == 5


def test_the_first_word_of_an_entity_begins_it_and_the_others_are_inside() -> None:
    assert labels_of(WORDS, [of(7, 20), of(27, 31, "drug")], TYPES) == (O, B_PROBLEM, I_PROBLEM, O, B_DRUG)


def test_of_entities_that_overlap_the_longest_is_kept() -> None:
    assert labels_of(WORDS, [of(7, 12), of(0, 20), of(13, 26, "drug")], TYPES) == (
        B_PROBLEM,
        I_PROBLEM,
        I_PROBLEM,
        O,
        O,
    )


def test_entities_side_by_side_stay_two() -> None:
    labels = labels_of(WORDS, [of(0, 6), of(7, 20)], TYPES)

    assert labels == (B_PROBLEM, B_PROBLEM, I_PROBLEM, O, O)
    assert mentions_of(WORDS, labels, TYPES) == (of(0, 6), of(7, 20))


def test_a_word_that_two_entities_share_is_of_the_one_that_has_more_of_it() -> None:
    assert labels_of([Span(start=0, end=10)], [of(0, 3, "drug"), of(3, 10)], TYPES) == (B_PROBLEM,)


def test_an_entity_of_another_type_is_left_out() -> None:
    assert labels_of(WORDS, [of(0, 6, "severity")], TYPES) == (O,) * 5


def test_an_inside_without_a_beginning_begins_an_entity() -> None:
    labels = (I_PROBLEM, I_PROBLEM, I_DRUG, O, I_DRUG)

    assert mentions_of(WORDS, labels, TYPES) == (of(0, 12), of(13, 20, "drug"), of(27, 31, "drug"))


def test_labels_of_a_type_that_nobody_annotated_have_no_part() -> None:
    assert allowed_labels(TYPES, {"problem"}) == (True, False, False, True, True)


def test_labels_for_other_words_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        mentions_of(WORDS, (O,), TYPES)

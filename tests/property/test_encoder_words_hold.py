"""What holds of words and labels for every text: places, windows, and the way there and back."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given
from hypothesis import strategies as st

from lab.encoder.labels import OUTSIDE, labels_of, mentions_of
from lab.encoder.words import Word, WordPieces
from site_agent.trainer.extraction.mentions import Mention, Span, flatten
from tests.tiny_bert import write_tokenizer

TYPES = ("drug", "problem", "test")
# Letters with marks, digits, signs, other scripts, emoji, control characters, special tokens spelled out.
CHARACTERS = st.sampled_from(list("abC 1.-,()ßİﬁéñ中文يβ\t\n\u00a0\u0301\u0327\u200b\ufeff\u2009😀\x00\x07"))
TEXTS = st.one_of(st.text(CHARACTERS, max_size=60), st.text(max_size=60), st.just("x [SEP] [MASK]y"))


@cache
def pieces() -> WordPieces:
    with TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        return WordPieces(Path(folder))


@given(text=TEXTS)
def test_words_stand_in_order_inside_the_text_and_hold_no_white_space(text: str) -> None:
    words = pieces().words(text)

    ends = 0
    for word in words:
        assert ends <= word.span.start < word.span.end <= len(text)
        assert word.pieces
        assert not any(character.isspace() for character in text[word.span.start : word.span.end])
        ends = word.span.end


@given(text=TEXTS)
def test_every_letter_and_digit_is_in_a_word(text: str) -> None:
    covered = {place for word in pieces().words(text) for place in range(word.span.start, word.span.end)}

    assert [place for place, one in enumerate(text) if one.isalnum() and place not in covered] == []


@given(text=TEXTS)
def test_no_text_says_a_special_token(text: str) -> None:
    special = {0, 2, 3, 4}  # all but the one for what is unknown

    assert not special & {piece for word in pieces().words(text) for piece in word.pieces}


@given(text=TEXTS, room=st.integers(3, 20))
def test_windows_hold_every_word_once_and_the_first_piece_of_each_where_they_say(text: str, room: int) -> None:
    words = pieces().words(text)

    windows = pieces().windows(words, room)

    assert [span for one in windows for span in one.words] == [word.span for word in words]
    assert all(len(one.ids) <= room for one in windows)
    firsts = [one.ids[first] for one in windows for first in one.firsts]
    assert firsts == [word.pieces[0] for word in words]


@st.composite
def runs_of_words(draw: st.DrawFn) -> tuple[tuple[Word, ...], tuple[Mention, ...]]:
    """The words of a text, and entities each of which is a run of them; no two share one."""
    words = pieces().words(draw(TEXTS))
    mentions, at = [], 0
    while at < len(words):
        length = draw(st.integers(0, 3))
        if length:
            last = words[min(at + length, len(words)) - 1]
            kind = draw(st.sampled_from(TYPES))
            mentions.append(Mention(start=words[at].span.start, end=last.span.end, type=kind))
        at += max(1, length)
    return words, tuple(mentions)


@given(drawn=runs_of_words())
def test_entities_of_whole_words_come_back_as_they_were(drawn: tuple[tuple[Word, ...], tuple[Mention, ...]]) -> None:
    words, mentions = drawn
    spans = [word.span for word in words]

    assert mentions_of(spans, labels_of(spans, mentions, TYPES), TYPES) == mentions


MENTIONS = st.lists(
    st.builds(lambda at, length, kind: Mention(start=at, end=at + length, type=kind),
              st.integers(0, 30), st.integers(1, 12), st.sampled_from(TYPES)), max_size=6)  # fmt: skip


@given(text=st.text(CHARACTERS, min_size=1, max_size=42), mentions=MENTIONS)
def test_entities_that_overlap_anyhow_give_labels_of_the_longest_ones_and_are_read_without_overlap(
    text: str, mentions: list[Mention]
) -> None:
    spans = [word.span for word in pieces().words(text)]

    labels = labels_of(spans, mentions, TYPES)
    read = mentions_of(spans, labels, TYPES)

    assert labels == labels_of(spans, flatten(mentions), TYPES)
    assert not any(one.overlaps(other) for one in read for other in read if one is not other)
    assert_words_of_entities(spans, labels, mentions)


def assert_words_of_entities(spans: list[Span], labels: tuple[int, ...], mentions: list[Mention]) -> None:
    """A word is labelled where an entity that is kept has a part of it, and nowhere else."""
    for span, label in zip(spans, labels, strict=True):
        touched = any(one.start < span.end and span.start < one.end for one in flatten(mentions))
        assert (label != OUTSIDE) == touched

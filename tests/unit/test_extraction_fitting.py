"""Sentences that are too long: pieces that fit and are the sentence again, or what stands around a head."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from site_agent.trainer.extraction.examples import Example
from site_agent.trainer.extraction.fitting import fit
from site_agent.trainer.extraction.mentions import Mention

TEXTS = st.text(st.sampled_from("ab \nβ"), min_size=1, max_size=200)


def example(text: str, head: Mention | None = None) -> Example:
    return Example(text=text, entities=(), offset=7, passage_id="p", head=head)


@settings(deadline=None)
@given(TEXTS, st.integers(1, 50))
def test_pieces_fit_and_give_the_sentence_back_with_its_places(text: str, longest: int) -> None:
    pieces = fit([example(text)], lambda one: len(one.text) <= longest)
    assert all(0 < len(piece.text) <= longest for piece in pieces)
    assert "".join(piece.text for piece in pieces) == text
    assert all(text[piece.offset - 7 : piece.offset - 7 + len(piece.text)] == piece.text for piece in pieces)


@settings(deadline=None)
@given(TEXTS, st.integers(1, 60), st.data())
def test_what_is_left_around_a_head_fits_and_holds_it_at_its_place(
    text: str, longest: int, data: st.DataObject
) -> None:
    start = data.draw(st.integers(0, len(text) - 1))
    head = Mention(start=start, end=data.draw(st.integers(start + 1, len(text))), type="drug")
    pieces = fit([example(text, head)], lambda one: len(one.text) <= longest)
    if head.end - head.start > longest:
        assert pieces == ()
        return
    (piece,) = pieces
    assert len(piece.text) <= longest
    assert piece.head is not None
    assert piece.head.moved(piece.offset) == head.moved(7)
    assert text[piece.offset - 7 : piece.offset - 7 + len(piece.text)] == piece.text


def test_a_sentence_is_cut_at_white_space() -> None:
    pieces = fit([example("chest pain " * 10)], lambda one: len(one.text) <= 60)
    assert [piece.text for piece in pieces] == ["chest pain " * 5] * 2


def test_what_fits_stays_as_it_is_and_in_order() -> None:
    examples = [example("a"), example("bb bb"), example("c")]
    assert [one.text for one in fit(examples, lambda one: len(one.text) < 4)] == ["a", "bb ", "bb", "c"]


def test_what_fits_at_no_length_is_left_out() -> None:
    assert fit([example("abc")], lambda one: False) == ()

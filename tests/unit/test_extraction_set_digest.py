"""Digests of sets of texts: what is the same text, and what two sets share."""

from __future__ import annotations

import pytest

from common.errors import InputInvalidError, Reason
from site_agent.trainer.extraction.passages import Passage
from site_agent.trainer.extraction.set_digest import check_apart, set_digest, text_digests


def passages(*texts: str) -> list[Passage]:
    return [
        Passage(id=f"p{number}", text=text, entities=(), relations=(), document="d")
        for number, text in enumerate(texts)
    ]


def test_white_space_and_case_make_no_other_text() -> None:
    assert text_digests(passages("No  fever.\n")) == text_digests(passages("no FEVER."))
    assert text_digests(passages("No fever")) != text_digests(passages("No fever."))


def test_the_digest_of_a_set_is_of_what_texts_it_holds() -> None:
    assert set_digest(passages("a", "b", "b")) == set_digest(passages("b", "a"))
    assert len({set_digest(passages(*texts)) for texts in (["a"], ["b"], ["a", "b"], ["ab"], [])}) == 5


def test_sets_that_share_no_text_are_apart() -> None:
    check_apart(passages("a", "b"), passages("c"), "")
    check_apart(passages("a", "b"), passages("c"), set_digest(passages("c")))
    check_apart(passages("a"), [], "")


def test_no_shared_text_is_shown() -> None:
    with pytest.raises(InputInvalidError) as refused:
        check_apart(passages("a secret", "b"), passages("A  secret", "c"), "")
    assert refused.value.reason is Reason.NOTES_INVALID
    assert refused.value.message == "validation set: expected no text of the test set, got 1 of 2"


@pytest.mark.parametrize("held_out", [[], ["d"]])
def test_a_run_that_names_its_test_set_wants_that_very_set(held_out: list[str]) -> None:
    wanted = set_digest(passages("c"))
    with pytest.raises(InputInvalidError, match=f"test set: expected {wanted} as in the terms"):
        check_apart(passages("a"), passages(*held_out), wanted)

"""Values of command lines: what is no whole number or no share is told as expected against got."""

from __future__ import annotations

import argparse

import pytest

from common.arguments import share, whole_number


@pytest.mark.parametrize("text", ["0", "-1", "1.5", "abc", ""])
def test_what_is_no_whole_number_of_at_least_one_is_refused_with_what_came(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"expected a whole number of at least 1, got {text!r}"):
        whole_number(text)


@pytest.mark.parametrize("text", ["-0.1", "1.01", "nan", "abc", ""])
def test_what_is_no_share_is_refused_with_what_came(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=f"expected a number from 0 to 1, got {text!r}"):
        share(text)


def test_others_are_read() -> None:
    assert (whole_number("12"), share("0"), share("0.25"), share("1")) == (12, 0.0, 0.25, 1.0)

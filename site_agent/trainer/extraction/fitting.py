"""Sentences that are too long to be asked about whole, as pieces that are not. It does not know how length is counted.

The sentence splitter keeps sentences short; what is longer still (a table without a line end, a script of many tokens)
is halved at white space, or anywhere, until it fits. About a head, what stands far from it is cut away instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from site_agent.trainer.extraction.examples import Example
from site_agent.trainer.extraction.mentions import Mention, Span

# How far from the middle a piece may end, to end at white space.
_REACH = 40


def fit(examples: Iterable[Example], fits: Callable[[Example], bool]) -> tuple[Example, ...]:
    """The examples, those that do not fit in pieces; what does not fit at any length is left out.

    Gold answers are not kept: it is for what is predicted on.
    """
    fitted: list[Example] = []
    waiting = list(examples)[::-1]
    while waiting:
        example = waiting.pop()
        if fits(example):
            fitted.append(example)
        else:
            waiting += _smaller(example)[::-1]
    return tuple(fitted)


def _smaller(example: Example) -> list[Example]:
    length = len(example.text)
    if example.head is None:
        middle = _near_white_space(example.text, length // 2)
        pieces = [Span(start=0, end=middle), Span(start=middle, end=length)] if length > 1 else []
        return [_piece(example, piece) for piece in pieces]
    start = _near_white_space(example.text, (example.head.start + 1) // 2, example.head.start)
    end = _near_white_space(example.text, example.head.end + (length - example.head.end) // 2)
    end = max(end, example.head.end)
    return [_piece(example, Span(start=start, end=end))] if end - start < length else []


def _near_white_space(text: str, wanted: int, at_most: int | None = None) -> int:
    """An offset behind white space close to ``wanted``, or ``wanted`` itself."""
    last = len(text) - 1 if at_most is None else at_most
    reach = range(max(1, wanted - _REACH), min(last, wanted + _REACH) + 1)
    behind = (index for index in reach if text[index - 1].isspace())
    return min(behind, key=lambda index: abs(index - wanted), default=wanted)


def _piece(example: Example, span: Span) -> Example:
    head = example.head
    if head is not None:
        head = Mention(start=head.start - span.start, end=head.end - span.start, type=head.type)
    text = example.text[span.start : span.end]
    return replace(example, text=text, entities=(), offset=example.offset + span.start, head=head)

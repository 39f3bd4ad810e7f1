"""Where words that a model named without saying where stand in a sentence. Knows nothing of types or JSON."""

from __future__ import annotations

import re
from collections.abc import Iterator

from site_agent.trainer.extraction.mentions import Span


class Occurrences:
    """Gives out the occurrences of words in one sentence: from left to right, and no character twice.

    Words are looked for as they are before case and white space are ignored, and as whole words before they are looked
    for inside others; each time first behind what was given out last, then anywhere.
    """

    __slots__ = ("_cursor", "_exhausted", "_sentence", "_taken")

    def __init__(self, sentence: str) -> None:
        self._sentence = sentence
        self._taken = bytearray(len(sentence))
        self._exhausted: set[str] = set()
        self._cursor = 0

    def take(self, words: str) -> Span | None:
        """The next free occurrence of ``words``, which is then no longer free; None where there is none."""
        visible = len("".join(words.split()))
        if not 0 < visible <= len(self._sentence) or words in self._exhausted:
            return None
        for pattern in _patterns(words):
            for start in (self._cursor, 0):
                for match in pattern.finditer(self._sentence, start):
                    if not any(self._taken[match.start() : match.end()]):
                        return self._give(Span(start=match.start(), end=match.end()))
        self._exhausted.add(words)
        return None

    def _give(self, span: Span) -> Span:
        self._taken[span.start : span.end] = b"\x01" * (span.end - span.start)
        self._cursor = span.end
        return span


def _patterns(words: str) -> Iterator[re.Pattern[str]]:
    exact = re.escape(words)
    loose = r"\s+".join(re.escape(word) for word in words.split())
    for start, end in ((r"(?<!\w)", r"(?!\w)"), ("", "")):
        yield re.compile(start + exact + end)
        yield re.compile(start + loose + end, re.IGNORECASE)

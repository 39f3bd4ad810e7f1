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

    __slots__ = ("_cursor", "_sentence", "_taken")

    def __init__(self, sentence: str) -> None:
        self._sentence = sentence
        self._taken: list[Span] = []
        self._cursor = 0

    def take(self, words: str) -> Span | None:
        """The next free occurrence of ``words``, which is then no longer free; None where there is none."""
        if not words.strip():
            return None
        for pattern in _patterns(words):
            free = [span for span in self._spans(pattern) if self._is_free(span)]
            if free:
                behind = (span for span in free if span.start >= self._cursor)
                chosen = next(behind, free[0])
                self._taken.append(chosen)
                self._cursor = chosen.end
                return chosen
        return None

    def _spans(self, pattern: re.Pattern[str]) -> Iterator[Span]:
        for match in pattern.finditer(self._sentence):
            yield Span(start=match.start(), end=match.end())

    def _is_free(self, span: Span) -> bool:
        return all(span.end <= taken.start or taken.end <= span.start for taken in self._taken)


def _patterns(words: str) -> Iterator[re.Pattern[str]]:
    exact = re.escape(words)
    loose = r"\s+".join(re.escape(word) for word in words.split())
    for template in (r"(?<!\w){}(?!\w)", "{}"):
        yield re.compile(template.format(exact))
        yield re.compile(template.format(loose), re.IGNORECASE)

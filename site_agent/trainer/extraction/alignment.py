"""Where stretches of a text that a model copied, more or less faithfully, stand in the original. No tags, no types."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from site_agent.trainer.extraction.mentions import Span

# Bounds the cost of one alignment, which is quadratic at worst; a sentence of the splitter has at most 1000 characters.
MAX_WORDS = 1000
_WORD = re.compile(r"\w+|[^\w\s]")


def align(copy: str, original: str, spans: Sequence[Span]) -> list[Span | None]:
    """The place in ``original`` of each span of ``copy``; None where it has none.

    An exact copy, or the beginning of one, gives exact places. Otherwise words (and punctuation marks one by one) are
    matched without regard to case and white space, so that a word left out, put in or misspelt moves nothing else.
    """
    if original.startswith(copy):
        return [span if span.start < span.end else None for span in spans]
    if not spans:
        return []
    alignment = _Alignment.of(copy, original)
    return [alignment.place(span) for span in spans]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Block:
    """Words ``copy_start`` to ``copy_end`` of the copy stand for ``start`` to ``end`` of the original."""

    equal: bool
    copy_start: int
    copy_end: int
    start: int
    end: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Alignment:
    copied: list[Span]
    words: list[Span]
    blocks: list[_Block]  # one for each word of the copy

    @classmethod
    def of(cls, copy: str, original: str) -> _Alignment:
        copied, words = _words(copy), _words(original)
        matcher = SequenceMatcher(
            None,
            [copy[word.start : word.end].lower() for word in copied],
            [original[word.start : word.end].lower() for word in words],
            autojunk=False,
        )
        blocks = []
        for tag, copy_start, copy_end, start, end in matcher.get_opcodes():
            block = _Block(equal=tag == "equal", copy_start=copy_start, copy_end=copy_end, start=start, end=end)
            blocks += [block] * (copy_end - copy_start)
        return cls(copied=copied, words=words, blocks=blocks)

    def place(self, span: Span) -> Span | None:
        first = bisect_right(self.copied, span.start, key=lambda word: word.end)
        last = bisect_left(self.copied, span.end, key=lambda word: word.start) - 1
        if first > last or not self._is_known(first, last):
            return None
        start, end = self._start(first, span.start), self._end(last, span.end)
        return Span(start=start, end=end) if start < end else None

    def _is_known(self, first: int, last: int) -> bool:
        """Whether a word of the stretch is the original's, or each stands for exactly one other (a misspelt name)."""
        blocks = self.blocks[first : last + 1]
        return any(block.equal or block.copy_end - block.copy_start == block.end - block.start for block in blocks)

    def _start(self, first: int, offset: int) -> int:
        block = self.blocks[first]
        index = min(block.start + first - block.copy_start, block.end)
        if index == len(self.words):
            return self.words[-1].end if self.words else 0
        word = self.words[index]
        inside = max(0, offset - self.copied[first].start) if block.equal else 0
        return min(word.start + inside, word.end)

    def _end(self, last: int, offset: int) -> int:
        block = self.blocks[last]
        index = block.end if last + 1 == block.copy_end else min(block.start + last + 1 - block.copy_start, block.end)
        if index == 0:
            return 0
        word = self.words[index - 1]
        missing = max(0, self.copied[last].end - offset) if block.equal else 0
        return max(word.end - missing, word.start)


def _words(text: str) -> list[Span]:
    words: list[Span] = []
    for match in _WORD.finditer(text):
        if len(words) == MAX_WORDS:
            break
        words.append(Span(start=match.start(), end=match.end()))
    return words

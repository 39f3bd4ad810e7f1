"""Where the sentences of a clinical text are, by rules on its characters. Knows nothing of models or labels.

The rules prefer one sentence too long over one cut in two: a cut loses the context of an entity or the entity itself.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise

from site_agent.trainer.extraction.mentions import Span

# Longer stretches without a sentence end (tables, run-on text) are cut at white space: about 250 tokens.
MAX_SENTENCE_CHARACTERS = 1000
# Lines that stop in mid-sentence at 60 to 100 characters, in a text without longer ones, were wrapped at a margin.
SHORTEST_WRAPPED_LINE = 60
WIDEST_MARGIN = 100
# How far back the rules look from a full stop.
_LOOK_BACK = 60

_NEWLINE = re.compile(r"\r\n|[\n\r\f\v\x85\u2028\u2029]")
_LINE_END = re.compile(rf"(?:{_NEWLINE.pattern})\s*")
_STOP = re.compile(r"(?<![.!?])([.!?]++)[\"'”’)\]]*+(?=\s)\s*")
_LAST_WORD = re.compile(r"[^\s(\[\"'“‘]*\Z")
_ENUMERATOR = re.compile(r"(?:\A|[\n\r])[\s•*(-]*(?:\d{1,3}|[A-Za-z])\Z")
_INITIALS = re.compile(r"(?:[A-Z]\.)*[A-Z]")
_NAME_BEFORE = re.compile(r"(?:\b[A-Z][A-Za-z]*\.?\s+|[(\[])\Z")

# Never at the end of a sentence.
_ABBREVIATIONS = re.compile(
    r"dr|mr|mrs|ms|prof|st|vs|cf|al|e\.?g|i\.?e|approx|ca|incl|esp|resp|viz|gen|lt|sgt", re.IGNORECASE
)
# Not at the end of a sentence when a number follows.
_BEFORE_NUMBERS = re.compile(
    r"nos?|figs?|refs?|eq|sec|ch|vol|pp?|tab|ver|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|.*\d", re.IGNORECASE
)


def split_sentences(text: str, protected: Iterable[Span] = ()) -> tuple[Span, ...]:
    """Spans of the sentences of ``text``, in order, without white space at their edges.

    Every visible character belongs to exactly one of them. No sentence ends inside a ``protected`` span (gold
    entities, when training examples are made); what is predicted on is split without any.
    """
    shelter = _Shelter(protected)
    cuts = {cut for cut in (*_line_starts(text), *_sentence_starts(text)) if cut not in shelter}
    edges = [0, *sorted(cuts - {0, len(text)}), len(text)]
    return tuple(
        piece
        for start, end in pairwise(edges)
        for piece in _pieces(_trimmed(text, start, end), text, shelter)
        if piece.start < piece.end
    )


class _Shelter:
    """Offsets at which a text must not be cut: those strictly inside a protected span."""

    __slots__ = ("_ends", "_starts")

    def __init__(self, spans: Iterable[Span]) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for span in sorted(spans):
            if self._ends and span.start < self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], span.end)
            else:
                self._starts.append(span.start)
                self._ends.append(span.end)

    def __contains__(self, offset: int) -> bool:
        index = bisect_left(self._starts, offset) - 1
        return index >= 0 and offset < self._ends[index]


def _line_starts(text: str) -> Iterator[int]:
    """Offsets of lines, but for those that go on with the sentence of a wrapped line before them."""
    is_wrapped = max(map(len, _NEWLINE.split(text))) <= WIDEST_MARGIN
    line_start = 0
    for match in _LINE_END.finditer(text):
        line = text[line_start : match.start()].rstrip()
        line_start = match.end()
        one_newline = len(_NEWLINE.findall(match.group())) == 1
        is_open = len(line) >= SHORTEST_WRAPPED_LINE and line[-1] not in ".:;!?"
        if not (is_wrapped and one_newline and is_open and text[line_start : line_start + 1].islower()):
            yield line_start


def _sentence_starts(text: str) -> Iterator[int]:
    """Offsets after full stops, question and exclamation marks that end a sentence."""
    for match in _STOP.finditer(text):
        before = text[max(0, match.start() - _LOOK_BACK) : match.start()]
        if _ends_sentence(before, match.group(1), text[match.end() : match.end() + 1]):
            yield match.end()


def _ends_sentence(before: str, stop: str, following: str) -> bool:
    """Whether ``stop`` ends a sentence, given what stands before it and the first visible character after it."""
    if following.islower():
        return False
    if stop != ".":
        return not following.isdigit()  # a lost "at least" sign is often printed as "?"
    match = _LAST_WORD.search(before)
    word = match.group() if match else ""
    if _ABBREVIATIONS.fullmatch(word) or _ENUMERATOR.search(before):
        return False
    if following.isdigit() and _BEFORE_NUMBERS.fullmatch(word):
        return False
    return not (_INITIALS.fullmatch(word) and _NAME_BEFORE.search(before.removesuffix(word)))


def _pieces(sentence: Span, text: str, shelter: _Shelter) -> Iterator[Span]:
    """The sentence, cut at white space where it is longer than the limit."""
    while sentence.end - sentence.start > MAX_SENTENCE_CHARACTERS:
        cut = _cut(sentence, text, shelter)
        if cut is None:
            break
        yield _trimmed(text, sentence.start, cut)
        sentence = _trimmed(text, cut, sentence.end)
    yield sentence


def _cut(sentence: Span, text: str, shelter: _Shelter) -> int | None:
    """The last white space within the limit at which the text may be cut, or else the first one beyond it."""
    limit = sentence.start + MAX_SENTENCE_CHARACTERS
    for offset in chain(range(limit, sentence.start, -1), range(limit + 1, sentence.end)):
        if text[offset].isspace() and offset not in shelter:
            return offset
    return None


def _trimmed(text: str, start: int, end: int) -> Span:
    while start < end and _is_invisible(text[start]):
        start += 1
    while end > start and _is_invisible(text[end - 1]):
        end -= 1
    return Span(start=start, end=end)


def _is_invisible(character: str) -> bool:
    return character.isspace() or character in "\u200b\ufeff"

"""A sentence as words, each with its place and its word pieces, by a fast tokenizer's offsets. No labels, no model."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from tokenizers import Tokenizer

from site_agent.trainer.extraction.mentions import Span

TOKENIZER_FILE = "tokenizer.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Word:
    """What the tokenizer takes for a word: where it stands in its text, and the ids of its pieces, at least one."""

    span: Span
    pieces: tuple[int, ...] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Words that the encoder reads at once.

    Attributes:
        ids: Of all their pieces, between the tokens that mark a text's start and end.
        firsts: For each word, where in ``ids`` its first piece stands: the one that is labelled, as in BERT (arXiv
            1810.04805, section 5.3).
    """

    words: tuple[Span, ...]
    ids: tuple[int, ...] = field(repr=False)
    firsts: tuple[int, ...]


class WordPieces:
    """The tokenizer of an encoder's folder. A note cannot say a special token: its characters are words like others."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(folder / TOKENIZER_FILE))
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._tokenizer.encode_special_tokens = True
        self._start, self._end = self._tokenizer.encode("").ids

    def words(self, text: str) -> tuple[Word, ...]:
        """The words of a text in order, none of which overlap; what the tokenizer drops is in none."""
        # BERT's normaliser drops a form feed and the like, which would join the words around it.
        spaced = "".join(" " if one.isspace() else one for one in text)
        encoded = self._tokenizer.encode(spaced, add_special_tokens=False)
        pieces: dict[int, list[int]] = {}
        for index, word in enumerate(encoded.word_ids):
            assert word is not None, "only special tokens are of no word, and none is asked for"
            pieces.setdefault(word, []).append(index)
        starts = [encoded.offsets[group[0]][0] for group in pieces.values()]
        limits = [end for _, end in pairwise([*starts, len(text)])]
        return tuple(
            Word(
                span=Span(start=start, end=_with_marks(text, encoded.offsets[group[-1]][1], limit)),
                pieces=tuple(encoded.ids[index] for index in group),
            )
            for group, start, limit in zip(pieces.values(), starts, limits, strict=True)
        )

    def windows(self, words: Sequence[Word], room: int) -> list[Window]:
        """The words in windows of at most ``room`` ids; of a word that is longer than that, its beginning.

        Args:
            words: Of one text, in order.
            room: At least 3: a piece between the two tokens around it.
        """
        groups: list[list[Word]] = []
        taken = 0
        for word in words:
            size = min(len(word.pieces), room - 2)
            if not groups or taken + size > room - 2:
                groups.append([])
                taken = 0
            groups[-1].append(word)
            taken += size
        return [self._window(group, room) for group in groups]

    def _window(self, words: Sequence[Word], room: int) -> Window:
        ids, firsts = [self._start], []
        for word in words:
            firsts.append(len(ids))
            ids += word.pieces[: room - 2]
        return Window(words=tuple(word.span for word in words), ids=(*ids, self._end), firsts=tuple(firsts))


def _with_marks(text: str, end: int, limit: int) -> int:
    """Where a word ends with the accents behind it, which a tokenizer that strips accents leaves out of its offsets."""
    while end < limit and unicodedata.category(text[end]).startswith("M"):
        end += 1
    return end

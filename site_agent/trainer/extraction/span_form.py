"""The SPAN answer: the sentence rewritten, each entity inside ``<span class="problem">...</span>``.

Only what could be taken for a tag or for an escape is escaped (``<span`` as ``&lt;span``): every other character is
easier to copy as it is. Reading never raises, whatever a model wrote.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from site_agent.trainer.extraction.alignment import align
from site_agent.trainer.extraction.mentions import Mention, Span

_TAG = re.compile(r"<span\b[^<>]*>|</span\s*>", re.IGNORECASE)
_CLASS = re.compile(r"class\s*=\s*[\"']?([\w-]+)", re.IGNORECASE)
_TO_ESCAPE = re.compile(r"<(?=/?span)|&(?=(?:lt|amp);)", re.IGNORECASE)
_ESCAPE = re.compile(r"&(?:lt|amp);")


def write(sentence: str, mentions: Sequence[Mention]) -> str:
    """The sentence with its mentions, which are sorted and do not overlap, in tags."""
    pieces = []
    end = 0
    for mention in mentions:
        words = escape(sentence[mention.start : mention.end])
        pieces.append(f'{escape(sentence[end : mention.start])}<span class="{mention.type}">{words}</span>')
        end = mention.end
    return "".join([*pieces, escape(sentence[end:])])


def read(sentence: str, answer: str, entity_types: Collection[str]) -> tuple[list[Mention], bool]:
    """The mentions of an answer by offsets into ``sentence``, and whether the answer breaks the form.

    It does when a tag is not closed, not opened or without a class, or when its text is not the sentence. The text
    is then aligned word by word (`alignment`), and what finds no place is dropped.
    """
    rewritten, tagged, unbalanced = _without_tags(answer)
    wanted = [mention for mention in tagged if mention.type in entity_types]
    places = align(rewritten, sentence, [Span(start=one.start, end=one.end) for one in wanted])
    mentions = [
        Mention(start=place.start, end=place.end, type=mention.type)
        for mention, place in zip(wanted, places, strict=True)
        if place is not None
    ]
    return mentions, unbalanced or rewritten.split() != sentence.split()


def _without_tags(answer: str) -> tuple[str, list[Mention], bool]:
    """The answer's own text, what was tagged in it by offsets into that text, and whether tags do not pair up."""
    pieces: list[str] = []
    length = position = 0
    mentions: list[Mention] = []
    open_tags: list[tuple[str, int]] = []
    unbalanced = False
    for tag in _TAG.finditer(answer):
        pieces.append(unescape(answer[position : tag.start()]))
        length += len(pieces[-1])
        position = tag.end()
        if not tag.group().startswith("</"):
            named = _CLASS.search(tag.group())
            open_tags.append((named.group(1).lower() if named else "", length))
            unbalanced = unbalanced or named is None
        elif open_tags:
            entity_type, start = open_tags.pop()
            mentions.append(Mention(start=start, end=length, type=entity_type))
        else:
            unbalanced = True
    pieces.append(unescape(answer[position:]))
    return "".join(pieces), mentions, unbalanced or bool(open_tags)


def escape(text: str) -> str:
    """``text`` with ``<span``, ``</span``, ``&lt;`` and ``&amp;`` written so that `unescape` alone gives them back."""
    return _TO_ESCAPE.sub(lambda match: "&lt;" if match.group() == "<" else "&amp;", text)


def unescape(text: str) -> str:
    """The inverse of `escape`."""
    return _ESCAPE.sub(lambda match: "<" if match.group() == "&lt;" else "&", text)

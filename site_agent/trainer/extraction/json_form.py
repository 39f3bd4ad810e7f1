"""The JSON answer: a list of the entities in order, each an object of one pair, ``[{"problem":"chest pain"}]``.

None is ``[]``. One pair over the longer ``{"type":"problem","text":"chest pain"}`` because it says the same in fewer
tokens (7 over 11 in SmolLM2's vocabulary), and answer tokens are what training and decoding pay for; reading takes
both. Reading never raises, whatever a model wrote.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from site_agent.trainer.extraction.mentions import Mention
from site_agent.trainer.extraction.occurrences import Occurrences

# More entities than any sentence has; a model that repeats itself for ever is cut off here.
MAX_MENTIONS = 500
# Braces of a broken answer at which an object is looked for.
_MAX_TRIES = 2 * MAX_MENTIONS
# Lists and objects inside each other that a model may wrap its entities in.
_MAX_DEPTH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Object:
    """A JSON object as its pairs, in order: a model may give a key twice."""

    pairs: list[tuple[str, object]]

    @property
    def is_in_form(self) -> bool:
        return bool(self.pairs) and all(isinstance(value, str) for _, value in self.pairs)


_DECODER = json.JSONDecoder(object_pairs_hook=lambda pairs: _Object(pairs=pairs))


def write(sentence: str, mentions: Sequence[Mention]) -> str:
    """The words of the mentions, which are sorted and do not overlap, with their types."""
    pairs = [{mention.type: sentence[mention.start : mention.end]} for mention in mentions]
    return json.dumps(pairs, ensure_ascii=False, separators=(",", ":"))


def read(sentence: str, answer: str, entity_types: Collection[str]) -> tuple[list[Mention], bool]:
    """The mentions of an answer by offsets into ``sentence``, and whether the answer breaks the form.

    It does when it is not one JSON list of objects of strings; whole objects in it are taken all the same, so that a
    truncated answer counts for what it holds. Where the words stand is for `occurrences` to say.
    """
    objects, malformed = _objects(answer.strip())
    occurrences = Occurrences(sentence)
    mentions = []
    for entity_type, words in islice(_named(objects, _MAX_DEPTH), MAX_MENTIONS):
        span = occurrences.take(words) if entity_type in entity_types else None
        if span is not None:
            mentions.append(Mention(start=span.start, end=span.end, type=entity_type))
    return mentions, malformed


def _objects(answer: str) -> tuple[list[object], bool]:
    """The JSON list that the answer is, or else the whole objects in it; and whether it breaks the form."""
    try:
        value = _DECODER.decode(answer)
    except (ValueError, RecursionError):
        return list(_whole_objects(answer)), True
    if isinstance(value, list):
        return value, not all(isinstance(item, _Object) and item.is_in_form for item in value)
    return [value], True


def _whole_objects(answer: str) -> Iterator[object]:
    position = answer.find("{")
    for _ in range(_MAX_TRIES):
        if position < 0:
            return
        try:
            value, end = _DECODER.raw_decode(answer, position)
        except (ValueError, RecursionError):
            end = position + 1
        else:
            yield value
        position = answer.find("{", end)


def _named(value: object, depth: int) -> Iterator[tuple[str, str]]:
    """The pairs of type and words in a JSON value, in order."""
    if isinstance(value, list) and depth:
        for item in value:
            yield from _named(item, depth - 1)
    if not isinstance(value, _Object) or not depth:
        return
    pairs = [(key.strip().lower(), field) for key, field in value.pairs]
    fields = dict(pairs)
    match fields.get("type"), fields.get("text"):
        case str() as entity_type, str() as words:
            yield entity_type.strip().lower(), words
            return
    for name, field in pairs:
        if isinstance(field, str):
            yield name, field
        elif isinstance(field, list) and all(isinstance(item, str) for item in field):
            yield from ((name, item) for item in field)
        else:
            yield from _named(field, depth - 1)

"""A document to passages: cut at sentence ends, no entity cut, relations kept together where that is possible.

Passages are filled with sentences up to a number of words. A passage that would end inside a relation ends earlier, at
the last sentence end that no relation spans; where there is none, it is cut, and the relation dropped and counted.
A sentence of more words is a passage of its own.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate, product

from site_agent.trainer.extraction.importers.source import (
    MAX_RELATIONS,
    SourceDocument,
    SourceEntity,
    SourceRelation,
    expect,
)
from site_agent.trainer.extraction.mentions import Span
from site_agent.trainer.extraction.passages import Entity, Passage, Relation
from site_agent.trainer.extraction.sentences import split_sentences

ACROSS = "relations between passages"
_NOWHERE = -1


def cut(document: SourceDocument, max_words: int, tally: Counter[str]) -> Iterator[Passage]:
    """The passages of a document in the schema's types, numbered from 0, with offsets into their own texts.

    Raises:
        MalformedError: more than `MAX_RELATIONS` pairs of mentions are related.
    """
    spans = [Span(start=entity.start, end=entity.end) for entity in document.entities]
    sentences = split_sentences(document.text, spans)
    if not sentences:
        tally["documents without a word"] += 1
        return
    place = _Places(document, sentences)
    relations = [*document.relations, *_related_mentions(document, place)]
    ends = list(_ends(document.text, sentences, place.crossed(relations), max_words))
    home = {entity.id: bisect_right(ends, place.sentence[entity.id]) for entity in document.entities}
    entities, kept = defaultdict(list), defaultdict(list)
    for entity in document.entities:
        entities[home[entity.id]].append(entity)
    for one in relations:
        kept[home[one.head] if home[one.head] == home[one.tail] else _NOWHERE].append(one)
    tally[ACROSS] += len(kept[_NOWHERE])
    for number, (first, after) in enumerate(zip([0, *ends], ends, strict=False)):
        whole = Span(start=sentences[first].start, end=sentences[after - 1].end)
        yield _passage(document, number, whole, entities[number], kept[number])


class _Places:
    """In which sentence each entity stands."""

    def __init__(self, document: SourceDocument, sentences: Sequence[Span]) -> None:
        ends = [sentence.end for sentence in sentences]
        last = len(sentences) - 1
        self.sentence = {one.id: min(bisect_right(ends, one.start), last) for one in document.entities}
        self._count = len(sentences)

    def crossed(self, relations: Sequence[SourceRelation]) -> list[int]:
        """How many relations span the start of each sentence."""
        steps = [0] * (self._count + 1)
        for relation in relations:
            first, last = sorted((self.sentence[relation.head], self.sentence[relation.tail]))
            steps[first + 1] += 1
            steps[last + 1] -= 1
        return list(accumulate(steps))


def _ends(text: str, sentences: Sequence[Span], crossed: Sequence[int], max_words: int) -> Iterator[int]:
    """The number of the sentence after each passage."""
    words = [len(text[sentence.start : sentence.end].split()) for sentence in sentences]
    first, held = 0, 0
    for number, count in enumerate(words):
        held += count
        while held > max_words and first < number:
            end = next((each for each in range(number, first, -1) if not crossed[each]), number)
            yield end
            first, held = end, sum(words[end : number + 1])
    yield len(sentences)


def _related_mentions(document: SourceDocument, place: _Places) -> Iterator[SourceRelation]:
    """What is said of concepts, said of every two mentions of them in one sentence: silver, not gold."""
    mentions: dict[str, dict[int, list[SourceEntity]]] = {}
    for entity in document.entities:
        for concept in entity.concepts:
            mentions.setdefault(concept, {}).setdefault(place.sentence[entity.id], []).append(entity)
    found: dict[SourceRelation, None] = {}
    for relation in document.concept_relations:
        tails = mentions.get(relation.tail, {})
        for sentence, heads in mentions.get(relation.head, {}).items():
            for head, tail in product(heads, tails.get(sentence, ())):
                if head.id != tail.id:
                    found[SourceRelation(type=relation.type, head=head.id, tail=tail.id)] = None
                expect(len(found) <= MAX_RELATIONS, "document", f"expected at most {MAX_RELATIONS} relations, got more")
    yield from found


def _passage(
    document: SourceDocument,
    number: int,
    whole: Span,
    entities: Sequence[SourceEntity],
    relations: Sequence[SourceRelation],
) -> Passage:
    """White space at an entity's edge may lie outside its sentence, and is taken in: offsets stay as they were."""
    start = min([whole.start, *(entity.start for entity in entities)])
    end = max([whole.end, *(entity.end for entity in entities)])
    in_order = sorted(entities, key=lambda one: (one.start, one.end, one.type))
    numbered = {entity.id: f"T{place}" for place, entity in enumerate(in_order, start=1)}
    return Passage(
        id=f"{document.id}-{number}",
        text=document.text[start:end],
        entities=tuple(
            Entity(id=numbered[one.id], type=one.type, start=one.start - start, end=one.end - start) for one in in_order
        ),
        relations=tuple(Relation(type=one.type, head=numbered[one.head], tail=numbered[one.tail]) for one in relations),
        document=document.id,
        patient=document.patient,
    )

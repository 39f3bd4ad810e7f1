"""One patient's note: sentences under headings, and passages with the offsets of all entities. It picks no patient."""

from __future__ import annotations

from dataclasses import dataclass, field

from demo.notes.case import Case
from demo.notes.compose import Sentence, UnavailableError, compose
from demo.notes.dice import Dice
from demo.notes.house import House, SectionUse
from demo.notes.template import Template
from site_agent.trainer.extraction.passages import Entity, Passage, Relation

MAX_PASSAGE_WORDS = 126  # as in the corpora that the demo takes instead
SENTENCE_WORDS = range(8, 31)
# Tries for one sentence, before a section is left out.
_ATTEMPTS = 60


@dataclass(frozen=True, slots=True)
class Draft:
    """A passage as sentences with what stands before each of them."""

    sentences: tuple[tuple[str, Sentence], ...]

    def as_passage(self, passage_id: str, document: str) -> Passage:
        """The text with all entities by their place in it, numbered from T1."""
        parts: list[str] = []
        length = 0
        entities: list[Entity] = []
        relations: list[Relation] = []
        for lead, sentence in self.sentences:
            parts += (lead, sentence.text)
            offset, first = length + len(lead), len(entities) + 1
            length = offset + len(sentence.text)
            for number, mention in enumerate(sentence.mentions, first):
                moved = mention.moved(offset)
                entities.append(Entity(id=f"T{number}", type=moved.type, start=moved.start, end=moved.end))
            for link in sentence.links:
                head, tail = (f"T{first + end}" for end in (link.head, link.tail))
                relations.append(Relation(type=link.type, head=head, tail=tail))
        return Passage(
            id=passage_id,
            text="".join(parts),
            entities=tuple(entities),
            relations=tuple(relations),
            document=document,
        )


@dataclass(slots=True)
class Note:
    """One note while it is written: a template serves once a note, a sentence once a site."""

    house: House
    case: Case
    dice: Dice
    written: set[str]
    used: set[Template] = field(default_factory=set)

    def passage(self, uses: tuple[SectionUse, ...]) -> Draft:
        """The next passage; a section for which the case has nothing new is short or missing."""
        sentences: list[tuple[str, Sentence]] = []
        told: frozenset[str] = frozenset()
        words = 0
        for use in uses:
            heading = self.house.heading.format(self.dice.pick(self.house.sections[use.section].headings))
            for place in range(self.dice.between(use.least, use.greatest)):
                headed = place == 0 or self.house.repeats_heading
                sentence = self._sentence(use.section, heading if headed else "", told)
                if sentence is None or words + _words(sentence.text) > MAX_PASSAGE_WORDS:
                    break
                words += _words(sentence.text)
                told |= sentence.keys
                between = self.house.between_sections if place == 0 else self.house.between_sentences
                sentences.append((between if sentences else "", sentence))
        return Draft(tuple(sentences))

    def _sentence(self, section: str, heading: str, told: frozenset[str]) -> Sentence | None:
        """A new sentence of this section, or None if none was found."""
        templates = [one for one in self.house.sections[section].templates if one not in self.used]
        for _ in range(_ATTEMPTS if templates else 0):
            template = self.dice.pick(templates)
            try:
                sentence = compose(template, self.case, told, self.dice)
            except UnavailableError:
                continue
            sentence = self._headed(sentence, heading)
            if _words(sentence.text) in SENTENCE_WORDS and sentence.text not in self.written:
                self.written.add(sentence.text)
                self.used.add(template)
                return sentence
        return None

    def _headed(self, sentence: Sentence, heading: str) -> Sentence:
        text = sentence.text
        if self.house.capitalizes and text.split(maxsplit=1)[0].islower():  # "pH" and "eGFR" stay as they are
            text = text[0].upper() + text[1:]
        mentions = tuple(mention.moved(len(heading)) for mention in sentence.mentions)
        return Sentence(heading + text, mentions, sentence.links, sentence.keys)


def _words(text: str) -> int:
    return len(text.split())

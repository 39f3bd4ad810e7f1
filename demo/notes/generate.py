"""All notes of one site: documents of several passages, in the site's style and with its own mix of cases.

Everything is a function of the site's number, the seed and the counts. It writes no file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count

from demo.notes.case import MAIN_SLOTS, Case, make_case
from demo.notes.compose import Sentence, UnavailableError, compose
from demo.notes.dice import Dice
from demo.notes.house import HOUSE_SETTINGS, House, SectionUse, load_house
from demo.notes.knowledge import Condition, load_knowledge
from demo.notes.template import Template
from site_agent.trainer.extraction.passages import Entity, Passage, Relation

MAX_PASSAGE_WORDS = 126  # as in the corpora that the demo takes instead
SENTENCE_WORDS = range(8, 31)
# One condition in so many is not seen at a site; which, differs from site to site.
_UNSEEN_CONDITIONS = 5
# How much commoner a site's commonest specialties are than its rarest.
_SPECIALTY_WEIGHTS = (1, 1, 2, 4)
# One name in so many stays out of a site's train documents, so that its test documents hold unseen entities.
_HELD_OUT = 8
_ATTEMPTS = 60
_FRUITLESS_DOCUMENTS = 50


class Split(StrEnum):
    """What a document is for."""

    TRAIN = "train"
    DEV = "dev"
    TEST = "test"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One passage with what the corpus format says about it beside its annotation."""

    passage: Passage
    source: str
    split: Split


def house_of(site_index: int) -> House:
    """The style of site ``site_index``: the three take turns."""
    names = tuple(HOUSE_SETTINGS)
    return load_house(names[site_index % len(names)])


def generate_site(
    site_index: int, *, seed: int, passages: Mapping[Split, int]
) -> dict[Split, tuple[Record, ...]]:
    """The records of site ``site_index`` (from 0), exactly so many passages a split, no document in two splits.

    No sentence occurs twice at a site.

    Raises:
        ValueError: If ``seed`` is negative, or more passages are asked for than the tables give different ones.
    """
    site = _Site(site_index, seed)
    return {split: tuple(site.records(split, passages.get(split, 0))) for split in Split}


@dataclass(frozen=True, slots=True)
class _Draft:
    """A passage as sentences with what stands before each of them."""

    sentences: tuple[tuple[str, Sentence], ...]

    def as_passage(self, passage_id: str, document: str) -> Passage:
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


class _Site:
    """A site's mix of cases, what it keeps for testing, and the sentences it has written."""

    def __init__(self, index: int, seed: int) -> None:
        self.index, self.seed = index, seed
        self.house = house_of(index)
        dice = Dice(seed, index, 0)
        self.knowledge = load_knowledge()
        self.conditions = self._mix(dice)
        self.held_out = self._held_out(dice)
        self.written: set[str] = set()

    def records(self, split: Split, wanted: int) -> Iterator[Record]:
        dice = Dice(self.seed, self.index, 1 + list(Split).index(split))
        made = fruitless = 0
        for number in count():
            if made == wanted:
                return
            document = f"{self.house.name}-{self.index}-{split}-{number:05d}"
            drafts = self._document(split, dice)[: wanted - made]
            fruitless = 0 if drafts else fruitless + 1
            if fruitless == _FRUITLESS_DOCUMENTS:
                raise ValueError(f"{split}: expected {wanted} different passages, got {made} from these tables")
            for part, draft in enumerate(drafts):
                made += 1
                passage = draft.as_passage(f"{document}-{part}", document)
                yield Record(passage=passage, source=f"synthetic {self.house.genre}", split=split)

    def _mix(self, dice: Dice) -> tuple[Condition, ...]:
        """The conditions of this site, each as often as its specialty weighs."""
        seen = [one for one in self.knowledge.conditions if self.house.setting in one.settings]
        slice_ = [one for place, one in enumerate(seen) if (place + self.index) % _UNSEEN_CONDITIONS]
        specialties = dice.shuffled(sorted({one.specialty for one in slice_}))
        weights = {name: _SPECIALTY_WEIGHTS[rank % len(_SPECIALTY_WEIGHTS)] for rank, name in enumerate(specialties)}
        return tuple(one for one in slice_ for _ in range(weights[one.specialty]))

    def _held_out(self, dice: Dice) -> frozenset[str]:
        names = {key for one in self.conditions for key in self._names(one)}
        return frozenset(name for name in sorted(names) if dice.below(_HELD_OUT) == 0)

    def _names(self, condition: Condition) -> Iterator[str]:
        case = make_case(condition, self.house, self.knowledge, frozenset(), Dice(0))
        for slot in MAIN_SLOTS:
            yield from (fact.keys[0] for fact in case.facts[slot])

    def _document(self, split: Split, dice: Dice) -> list[_Draft]:
        """The passages of one new patient's note."""
        held_out = self.held_out if split is Split.TRAIN else frozenset()
        condition = dice.pick([one for one in self.conditions if one.name not in held_out])
        note = _Note(self.house, make_case(condition, self.house, self.knowledge, held_out, dice), dice, self.written)
        drafts = [note.passage(uses) for uses in self.house.passages]
        return [draft for draft in drafts if len(draft.sentences) > 1]


@dataclass(slots=True)
class _Note:
    """One note while it is written: a template serves once a note, a sentence once a site."""

    house: House
    case: Case
    dice: Dice
    written: set[str]
    used: set[Template] = field(default_factory=set)

    def passage(self, uses: tuple[SectionUse, ...]) -> _Draft:
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
        return _Draft(tuple(sentences))

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

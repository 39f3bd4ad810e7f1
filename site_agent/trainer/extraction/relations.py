"""Relations as they are learnt, predicted and scored: one sentence, one head in it, and its tails by role.

The formulation is the paper's (arXiv 2601.22124: main entities are given, marked in the sentence; their modifiers are
to be marked), for one head at a time: with several heads marked at once, an answer would not say whose a tail is. Drug
and adverse effect, drug and indication are asked for in the same way. A relation whose ends stand in different
sentences is not asked for, so it can only be missed. No prompts here.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from common.label_schema import (
    ADVERSE_EFFECT,
    MODIFIER_TYPES,
    TREATS,
    check_relation_types,
    is_allowed_relation,
    relation_of,
    role_of,
)
from common.terms import TaskTerms
from site_agent.trainer.extraction.examples import Example, mentions_in
from site_agent.trainer.extraction.mentions import Mention, Span
from site_agent.trainer.extraction.passages import Passage
from site_agent.trainer.extraction.sentences import split_sentences

# What is asked about the heads of each type.
RolesByHead = Mapping[str, frozenset[str]]
_ROLES = (ADVERSE_EFFECT, TREATS, *MODIFIER_TYPES)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class RelationMention:
    """``tail`` relates to ``head``; both are mentions by offsets into the same text."""

    head: Mention
    tail: Mention
    type: str

    @property
    def role(self) -> str:
        """What the tail is to the head."""
        return role_of(self.type, self.tail.type)

    @property
    def place(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Where both ends stand."""
        return self.head.place, self.tail.place

    @property
    def kind(self) -> tuple[str, str, str]:
        """Its type and those of its ends."""
        return self.type, self.head.type, self.tail.type

    def overlaps(self, other: RelationMention) -> bool:
        """Whether the two share a character at either end."""
        return self.head.overlaps(other.head) and self.tail.overlaps(other.tail)


def relations_of(passage: Passage) -> tuple[RelationMention, ...]:
    """The gold relations of a passage, each once, sorted."""
    mentions = {entity.id: entity.mention for entity in passage.entities}
    return tuple(
        sorted(
            {
                RelationMention(type=one.type, head=mentions[one.head], tail=mentions[one.tail])
                for one in passage.relations
            }
        )
    )


def roles_to_ask(passages: Iterable[Passage], task: TaskTerms) -> RolesByHead:
    """What these passages annotate of what the task asks and the schema allows: roles of tails, by type of head.

    A role that never occurs with a type of head was not annotated there, which does not mean that nothing has it.
    """
    found: dict[str, set[str]] = {}
    for passage in passages:
        for one in relations_of(passage):
            if (
                one.type in task.relation_types
                and one.head.type in task.entity_types
                and is_allowed_relation(*one.kind)
            ):
                found.setdefault(one.head.type, set()).add(one.role)
    return {head: frozenset(roles) for head, roles in sorted(found.items())}


def all_roles(task: TaskTerms) -> RolesByHead:
    """Everything that the task asks and the schema allows: for texts of which nothing is known.

    Raises:
        InputInvalidError: SETTINGS_UNSUPPORTED, for a relation type that the schema does not know.
    """
    allowed = {
        head: frozenset(
            role
            for role in _ROLES
            if relation_of(role)[0] in check_relation_types(task.relation_types)
            and is_allowed_relation(relation_of(role)[0], head, relation_of(role)[1])
        )
        for head in sorted(task.entity_types)
    }
    return {head: roles for head, roles in allowed.items() if roles}


def is_asked(relation: RelationMention, roles: RolesByHead) -> bool:
    """Whether ``roles`` ask for it."""
    return relation.role in roles.get(relation.head.type, frozenset()) and is_allowed_relation(*relation.kind)


def gold_head_examples(passage: Passage, roles: RolesByHead) -> tuple[Example, ...]:
    """An example for each head of the passage, with or without tails; no entity is cut."""
    tails: dict[Mention, list[Mention]] = {}
    for one in relations_of(passage):
        if is_asked(one, roles):
            tail = Mention(start=one.tail.start, end=one.tail.end, type=one.role)
            tails.setdefault(one.head, []).append(tail)
    protected = [Span(start=entity.start, end=entity.end) for entity in passage.entities]
    sentences = split_sentences(passage.text, protected)
    heads = {entity.mention for entity in passage.entities if entity.type in roles}
    return tuple(
        Example(
            text=passage.text[sentence.start : sentence.end],
            entities=mentions_in(sentence, tails.get(head, ())),
            offset=sentence.start,
            passage_id=passage.id,
            head=_inside(sentence, head),
        )
        for sentence in sentences
        for head in sorted(heads)
        if _holds(sentence, head)
    )


def head_examples(passage_id: str, text: str, heads: Collection[Mention]) -> tuple[Example, ...]:
    """An example for each of the given heads, of whose tails nothing is known: what is predicted on."""
    sentences = split_sentences(text, [Span(start=head.start, end=head.end) for head in heads])
    return tuple(
        Example(
            text=text[sentence.start : sentence.end],
            entities=(),
            offset=sentence.start,
            passage_id=passage_id,
            head=_inside(sentence, head),
        )
        for sentence in sentences
        for head in sorted(set(heads))
        if _holds(sentence, head)
    )


def merge_tails(examples: Sequence[Example], predictions: Iterable[Sequence[Mention]]) -> tuple[RelationMention, ...]:
    """What was predicted about the heads of one text, by offsets into it, each once, sorted.

    Raises:
        ValueError: There are not as many predictions as examples.
    """
    return tuple(
        sorted(
            {_relation(example, tail) for example, tails in zip(examples, predictions, strict=True) for tail in tails}
        )
    )


def count_across_sentences(passage: Passage) -> int:
    """Relations of the passage whose ends do not stand in one sentence, so that they are never asked for."""
    sentences = split_sentences(passage.text, [Span(start=one.start, end=one.end) for one in passage.entities])
    return sum(
        not any(_holds(sentence, one.head) and _holds(sentence, one.tail) for sentence in sentences)
        for one in relations_of(passage)
    )


def count_not_allowed(passage: Passage) -> int:
    """Relations of the passage that the label schema does not know between such entities: they are never asked for."""
    return sum(not is_allowed_relation(*one.kind) for one in relations_of(passage))


def _holds(sentence: Span, mention: Mention) -> bool:
    return mention.start < sentence.end and sentence.start < mention.end


def _inside(sentence: Span, head: Mention) -> Mention:
    (inside,) = mentions_in(sentence, [head])
    return inside


def _relation(example: Example, tail: Mention) -> RelationMention:
    assert example.head is not None, "an example of relations has a head"
    relation_type, tail_type = relation_of(tail.type)
    moved = tail.moved(example.offset)
    return RelationMention(
        type=relation_type,
        head=example.head.moved(example.offset),
        tail=Mention(start=moved.start, end=moved.end, type=tail_type),
    )

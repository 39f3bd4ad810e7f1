"""PubTator: titles, abstracts, mentions and relations between concepts, and how a malformed line is told."""

from __future__ import annotations

import pytest

from common.errors import InputInvalidError
from site_agent.trainer.extraction.importers.importing import Import
from site_agent.trainer.extraction.importers.pubtator import read_pubtator
from site_agent.trainer.extraction.importers.source import SourceRelation
from site_agent.trainer.extraction.importers.type_map import TypeMap
from tests.fakes.importing import CANARY, documents, mentions, problems, unit

ABSTRACT = """1|t|Rash after lithium.
1|a|Lithium gave hives and itching.
1\t11\t18\tlithium\tChemical\tD1
1\t20\t27\tLithium\tChemical\tD1
1\t33\t50\thives and itching\tDisease\tD2|D3\thives|itching
1\tCID\tD1\tD2
"""


def test_mentions_count_from_the_title_on() -> None:
    (document,) = documents(read_pubtator, unit(ABSTRACT))

    assert document.id == "1"
    assert document.text == "Rash after lithium.\nLithium gave hives and itching."
    assert mentions(document) == [
        ("Chemical", "lithium"),
        ("Chemical", "Lithium"),
        ("Disease", "hives and itching"),
    ]


def test_a_mention_may_be_of_several_concepts_and_relations_are_between_concepts() -> None:
    (document,) = documents(read_pubtator, unit(ABSTRACT))

    assert [one.concepts for one in document.entities] == [{"D1"}, {"D1"}, {"D2", "D3"}]
    assert document.concept_relations == (SourceRelation(type="CID", head="D1", tail="D2"),)


def test_a_mention_without_a_concept_is_of_none() -> None:
    content = "1|t|Rash\n1\t0\t4\tRash\tDisease\t-1\n\n2|t|Rash\n2\t0\t4\tRash\tDisease\n"

    assert [one.entities[0].concepts for one in documents(read_pubtator, unit(content))] == [set(), set()]


def test_abstracts_are_parted_by_blank_lines_whatever_the_line_ends() -> None:
    content = f"\n{ABSTRACT}\n\n\n2|t|Title alone\n".replace("\n", "\r\n")

    assert [document.id for document in documents(read_pubtator, unit(content))] == ["1", "2"]


MALFORMED = {
    "no title": ("1|a|Marfan\n", "line 1: expected id|t|title"),
    "no text at all": ("1\t0\t6\tMarfan\tDisease\n", "line 1: expected id|t|title"),
    "two titles": ("1|t|Marfan\n1|t|Marfan\n", "line 2: expected one title and one abstract"),
    "two abstracts' ids": ("1|t|Marfan\n2|a|Marfan\n", "line 2: expected the id of the title above"),
    "another id": ("1|t|Marfan\n2\t0\t6\tMarfan\tDisease\n", "line 2: expected the id of the abstract above"),
    "too few columns": ("1|t|Marfan\n1\t0\t6\tMarfan\n", "line 2: expected id, start, end, mention and type, or id"),
    "no type": ("1|t|Marfan\n1\t0\t6\tMarfan\t \n", "line 2: expected a type in column 5"),
    "other words": ("1|t|Rash\n1\t0\t4\tMarfan\tDisease\n", "line 2: expected what the text holds from 0 to 4"),
    "beyond the text": ("1|t|Marfan\n1\t0\t7\tMarfan\tDisease\n", "line 2: expected offsets up to 6, got 0 and 7"),
}


@pytest.mark.parametrize(("content", "expected"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_abstract_is_told_by_line_and_the_next_one_is_read(content: str, expected: str) -> None:
    both = unit(f"{content}\n{ABSTRACT}", name="set.txt")
    (told,) = problems(read_pubtator, both)

    assert told.startswith(f"set.txt, {expected}")
    assert sum(1 for _ in read_pubtator(both)) == 2


@pytest.mark.parametrize("words", [CANARY, CANARY.upper(), f"{CANARY} syndrome", f"syndrome {CANARY}"])
def test_a_mention_without_offsets_is_taken_for_a_relation_and_its_words_are_not_told(words: str) -> None:
    run = Import(types=TypeMap())
    content = f"1|t|Seen for {CANARY} syndrome.\n1\t{words}\tproblem\tD008382\n"
    list(run.passages(read_pubtator, [unit(content, name="set.txt")]))

    with pytest.raises(InputInvalidError) as caught:
        run.refuse_unmapped()

    assert CANARY.casefold() not in caught.value.message.casefold()
    assert f"[relations], missing: a name of {len(words)} characters (first in set.txt, document 1)" in (
        caught.value.message
    )

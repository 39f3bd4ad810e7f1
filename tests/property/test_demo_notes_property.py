from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from common.label_schema import is_allowed_relation
from demo.notes.case import Case
from demo.notes.compose import compose
from demo.notes.dice import Dice
from demo.notes.generate import Split, generate_site
from demo.notes.template import parse_template
from demo.notes.write import record_line
from site_agent.trainer.extraction.passage_records import parse_record
from site_agent.trainer.extraction.sentences import split_sentences

SEEDS = st.integers(min_value=0, max_value=2**64 - 1)
SIZES = {Split.TRAIN: 6, Split.DEV: 2, Split.TEST: 3}
EMPTY = Case({}, {})


@settings(max_examples=25, deadline=None)
@given(index=st.integers(min_value=0, max_value=20), seed=SEEDS)
def test_the_notes_of_any_site_and_seed_keep_every_promise(index: int, seed: int) -> None:
    made = generate_site(index, seed=seed, passages=SIZES)
    assert {split: len(records) for split, records in made.items()} == SIZES
    for record in (record for records in made.values() for record in records):
        passage = record.passage
        assert parse_record(record_line(record).encode()) == passage
        assert len(passage.text.split()) <= 126
        assert all(left.end < right.start for left, right in pairwise(passage.entities))
        types = {entity.id: entity.type for entity in passage.entities}
        assert all(is_allowed_relation(one.type, types[one.head], types[one.tail]) for one in passage.relations)
        spans = split_sentences(passage.text)
        assert all(8 <= len(passage.text[span.start : span.end].split()) <= 30 for span in spans)
        assert all(any(s.start <= e.start and e.end <= s.end for s in spans) for e in passage.entities)


@settings(max_examples=10, deadline=None)
@given(index=st.integers(min_value=0, max_value=20), seed=SEEDS)
def test_any_seed_gives_equal_notes_twice(index: int, seed: int) -> None:
    assert generate_site(index, seed=seed, passages=SIZES) == generate_site(index, seed=seed, passages=SIZES)


@given(seed=st.lists(SEEDS, min_size=1, max_size=3), count=st.integers(min_value=1, max_value=10**9))
def test_a_choice_below_a_count_is_below_it(seed: list[int], count: int) -> None:
    dice = Dice(*seed)
    assert all(0 <= dice.below(count) < count for _ in range(20))


@given(items=st.lists(st.integers()), seed=SEEDS)
def test_shuffling_loses_and_repeats_nothing(items: list[int], seed: int) -> None:
    assert sorted(Dice(seed).shuffled(items)) == sorted(items)


@given(one=st.tuples(SEEDS, SEEDS), other=st.tuples(SEEDS, SEEDS))
def test_different_seed_numbers_give_different_choices(one: tuple[int, int], other: tuple[int, int]) -> None:
    first, second = Dice(*one), Dice(*other)
    drawn = [[dice.below(2**53) for _ in range(4)] for dice in (first, second)]
    assert (drawn[0] == drawn[1]) == (one == other)


@given(text=st.text())
def test_any_text_with_its_marks_escaped_is_told_as_it_stands(text: str) -> None:
    escaped = "".join(f"\\{character}" if character in "\\()[]{}<>|" else character for character in text)
    assert compose(parse_template(escaped, {}), EMPTY, frozenset(), Dice(0)).text == text

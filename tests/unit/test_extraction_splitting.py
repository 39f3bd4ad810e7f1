"""Splits that part no patient, no document and no text, and what two sets must not share."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InputInvalidError
from site_agent.trainer.extraction.leakage import Leak, Shared, find_leaks, same_texts
from site_agent.trainer.extraction.passages import Entity, Passage
from site_agent.trainer.extraction.splitting import GroupBy, split_passages

WORDS = [f"word{number}" for number in range(16)]
FRACTIONS = {"train": 0.8, "dev": 0.1, "test": 0.1}


def passage(
    name: str, text: str = "", patient: str | None = None, document: str | None = None, types: tuple[str, ...] = ()
) -> Passage:
    """A passage with a text of its own, unless one is given."""
    text = text or " ".join(f"{name}{word}" for word in WORDS)
    entities = tuple(Entity(id=f"T{number}", type=kind, start=0, end=1) for number, kind in enumerate(types))
    return Passage(
        id=name, text=text, entities=entities, relations=(), document=document or f"d-{name}", patient=patient
    )


def leaks(first: Passage, second: Passage) -> list[Shared]:
    return [leak.shared for leak in find_leaks([passage("other"), first], [passage("another"), second])]


def many(count: int, patients: int = 10**6) -> list[Passage]:
    return [passage(f"p{n}", patient=f"{n % patients}", types=("drug",) * (n % 3)) for n in range(count)]


# What two sets share


def test_passages_of_one_patient_or_document_or_text_are_found_in_this_order() -> None:
    one = passage("a", patient="7", document="d")

    assert leaks(one, passage("b", patient="7", document="d")) == [Shared.PATIENT]
    assert leaks(one, passage("b", patient="8", document="d")) == [Shared.DOCUMENT]
    assert leaks(one, passage("b", text=one.text)) == [Shared.TEXT]
    assert leaks(one, passage("b")) == []


def test_a_leak_tells_both_places() -> None:
    found = list(find_leaks([passage("a"), passage("b", patient="7")], [passage("c"), passage("d", patient="7")]))

    assert found == [Leak(shared=Shared.PATIENT, first=1, second=1)]


def test_passages_without_a_patient_are_not_of_one_patient() -> None:
    assert leaks(passage("a"), passage("b")) == []


def test_texts_are_one_whatever_their_case_punctuation_and_white_space() -> None:
    text = "On Monday, the rash had spread: both arms and legs."
    same = "on monday the rash\nhad spread -- both ARMS and legs"

    assert leaks(passage("a", text=text), passage("b", text=same)) == [Shared.TEXT]


def test_short_texts_say_the_same_by_chance() -> None:
    text = "no acute distress at the time seen"

    assert leaks(passage("a", text=text), passage("b", text=text)) == []
    assert leaks(passage("a", text=f"{text} today"), passage("b", text=f"{text} today")) == [Shared.TEXT]


def test_a_text_with_a_word_changed_or_a_sentence_added_is_nearly_the_same() -> None:
    changed = " ".join([*WORDS, "a", "b"])
    longer = " ".join([*WORDS, *(f"new{n}" for n in range(40))])

    assert leaks(passage("a", text=" ".join(WORDS)), passage("b", text=longer)) == [Shared.NEARLY_TEXT]
    assert leaks(passage("a", text=longer), passage("b", text=changed)) == [Shared.NEARLY_TEXT]


def test_a_text_half_of_which_is_new_is_another_one() -> None:
    half = " ".join([*WORDS[:8], *(f"new{n}" for n in range(8))])

    assert leaks(passage("a", text=" ".join(WORDS)), passage("b", text=half)) == []


def test_a_phrase_of_the_house_is_no_sign_of_a_copy() -> None:
    phrase = " ".join(WORDS[:12])
    house = [passage(f"{n}", text=f"{phrase} {n}") for n in range(60)]

    assert list(find_leaks(house, [passage("x", text=f"{phrase} x")])) == []
    assert len(list(find_leaks(house[:49], [passage("x", text=f"{phrase} x")]))) == 1


def test_how_common_a_phrase_is_counts_over_all_sets_of_a_split() -> None:
    phrase = " ".join(WORDS[:12])
    train, dev, test = ([passage(f"{s}{n}", text=f"{phrase} {s}{n}") for n in range(20)] for s in ("a", "b", "c"))

    assert len(list(find_leaks(dev, test))) == 20
    assert list(find_leaks(dev, test, train)) == []


def test_passages_of_one_text_are_paired_with_the_first_of_them() -> None:
    text = " ".join(WORDS)

    assert set(same_texts([passage("a"), passage("b", text=text), passage("c", text=text)])) == {(1, 2)}


# Splits


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 12)), min_size=30, max_size=60), st.integers())
def test_sets_share_nothing_and_hold_everything_once(drawn: list[tuple[int, int]], seed: int) -> None:
    passages = [
        passage(f"p{n}", text=" ".join(f"t{text}{word}" for word in WORDS), patient=f"{patient}", document=f"{n}")
        for n, (patient, text) in enumerate(drawn)
    ]
    try:
        sets = split_passages(passages, GroupBy.PATIENT, FRACTIONS, seed)
    except InputInvalidError:
        return  # all are joined by texts to fewer groups than sets
    places = [place for inside in sets.values() for place in inside]
    assert sorted(places) == list(range(len(passages)))
    for name, other in (("train", "dev"), ("train", "test"), ("dev", "test")):
        assert list(find_leaks(*([passages[place] for place in sets[each]] for each in (name, other)))) == []


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("copies", [40, 50, 51, 55, 62])
def test_near_copies_of_one_template_are_no_leak_of_the_split_that_was_made(copies: int, seed: int) -> None:
    template = " ".join(f"{word}template" for word in WORDS)
    passages = many(60) + [passage(f"c{n}", text=f"{template} c{n}", patient=f"c{n}") for n in range(copies)]
    sets = split_passages(passages, GroupBy.PATIENT, FRACTIONS, seed)

    inside = {name: [passages[place] for place in places] for name, places in sets.items()}
    for name, other, third in (("train", "dev", "test"), ("train", "test", "dev"), ("dev", "test", "train")):
        assert list(find_leaks(inside[name], inside[other], inside[third])) == []


def test_sets_have_about_the_sizes_asked_for() -> None:
    sets = split_passages(many(200), GroupBy.PATIENT, FRACTIONS, seed=0)

    sizes = [len(inside) for inside in sets.values()]
    assert max(abs(size - wanted) for size, wanted in zip(sizes, (160, 20, 20), strict=True)) <= 2


def test_a_rare_type_comes_to_every_set_in_proportion() -> None:
    passages = [passage(f"p{n}", types=("test",) if n < 20 else ("drug",)) for n in range(200)]
    sets = split_passages(passages, GroupBy.DOCUMENT, FRACTIONS, seed=3)
    rare = {name: sum(place < 20 for place in inside) for name, inside in sets.items()}

    assert rare == {"train": 16, "dev": 2, "test": 2}


def test_a_rare_type_counts_for_more_than_one_that_every_passage_has() -> None:
    passages = [passage(f"p{n}", types=("drug",) * (n % 7 + 3) + ("test",) * (n < 20)) for n in range(200)]
    sets = split_passages(passages, GroupBy.DOCUMENT, FRACTIONS, seed=3)

    assert [sum(place < 20 for place in inside) for inside in sets.values()] == [16, 2, 2]


def test_a_patient_with_more_than_a_set_may_hold_goes_where_there_is_room() -> None:
    sizes = [30, 20, *[1] * 50]
    passages = [passage(f"{n} {m}", patient=f"{n}") for n, size in enumerate(sizes) for m in range(size)]
    sets = split_passages(passages, GroupBy.PATIENT, FRACTIONS, seed=0)

    assert [len(inside) for inside in sets.values()] == [80, 10, 10]
    assert set(range(50)) <= set(sets["train"])


def test_where_no_set_has_room_the_one_with_most_gets_it() -> None:
    wanted = {"train": 0.3, "dev": 0.4, "test": 0.3}
    sets = split_passages(many(120, patients=4), GroupBy.PATIENT, wanted, seed=0)

    assert [len(inside) for inside in sets.values()] == [30, 60, 30]


def test_the_same_seed_gives_the_same_sets_and_another_one_others() -> None:
    first, again, other = (split_passages(many(60), GroupBy.PATIENT, FRACTIONS, seed) for seed in (1, 1, 2))

    assert first == again
    assert first != other


def test_patients_with_many_passages_stay_whole() -> None:
    passages = many(100, patients=12)
    sets = split_passages(passages, GroupBy.PATIENT, FRACTIONS, seed=0)
    homes = Counter(patient for inside in sets.values() for patient in {passages[place].patient for place in inside})

    assert set(homes.values()) == {1}


def test_no_set_is_empty_as_long_as_there_are_as_many_patients() -> None:
    sets = split_passages(many(30, patients=3), GroupBy.PATIENT, FRACTIONS, seed=0)

    assert [len(inside) for inside in sets.values()] == [10, 10, 10]


def test_fewer_patients_than_sets_are_refused() -> None:
    with pytest.raises(InputInvalidError, match=r"expected at least 3 groups that share no patient.* got 2"):
        split_passages(many(30, patients=2), GroupBy.PATIENT, FRACTIONS, seed=0)


def test_by_patient_every_record_has_to_say_whose_it_is() -> None:
    with pytest.raises(InputInvalidError, match=r"expected meta\.patient in every record, got 1 without"):
        split_passages([*many(5), passage("x")], GroupBy.PATIENT, FRACTIONS, seed=0)


def test_by_document_a_patient_with_several_documents_is_refused() -> None:
    passages = many(6)
    passages[5] = replace(passages[5], patient=passages[0].patient)

    with pytest.raises(InputInvalidError, match="got 1 patients with several; split by patient"):
        split_passages(passages, GroupBy.DOCUMENT, FRACTIONS, seed=0)

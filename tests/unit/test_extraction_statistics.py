"""Statistics of annotated sets: what is counted, what is told as small, and plots that can be drawn of anything."""

from __future__ import annotations

import csv
from collections.abc import Sequence

import pytest

from site_agent.trainer.extraction.leakage import Shared
from site_agent.trainer.extraction.passages import Entity, Passage, Relation
from site_agent.trainer.extraction.statistics import SetStatistics, describe, overlaps, small_cells
from site_agent.trainer.extraction.statistics_tables import labels_csv, lengths_csv, markdown, overlap_csv
from site_agent.trainer.statistics_plots import draw_labels, draw_lengths, draw_overlap


def passage(name: str, text: str, words: Sequence[tuple[str, str]] = (), patient: str | None = None) -> Passage:
    entities = tuple(
        Entity(id=f"T{number}", type=kind, start=text.index(each), end=text.index(each) + len(each))
        for number, (kind, each) in enumerate(words)
    )
    relations = (Relation(type="treats", head="T0", tail="T1"),) if len(entities) > 1 else ()
    return Passage(id=name, text=text, entities=entities, relations=relations, document=name, patient=patient)


TRAIN = [
    passage("a", "Aspirin for fever. It helped.", [("drug", "Aspirin"), ("problem", "fever")], "Doe"),
    passage("b", "No rash.", [("problem", "rash")], "2"),
]
TEST = [passage("c", "ASPIRIN and rash and pain.", [("drug", "ASPIRIN"), ("drug", "rash")], "Doe")]
SETS = {"train": TRAIN, "test": TEST, "empty": []}


def rows(text: str) -> list[list[str]]:
    return list(csv.reader(text.splitlines()))


def described() -> list[SetStatistics]:
    return [describe(name, passages) for name, passages in SETS.items()]


def test_a_set_is_counted() -> None:
    counted = describe("train", TRAIN)

    assert (counted.passages, counted.documents, counted.patients, counted.sentences) == (2, 2, 2, 3)
    assert counted.entities == {"drug": 1, "problem": 2}
    assert counted.relations == {"treats": 1}
    assert counted.lengths == (2, 5)


def test_an_entity_is_seen_elsewhere_with_the_same_words_and_type() -> None:
    found = {(each.name, each.other): each for each in overlaps(SETS)}

    assert found["test", "train"].entities_seen == pytest.approx(1 / 2)  # as a drug nobody has seen the rash
    assert found["train", "test"].entities_seen == pytest.approx(1 / 3)
    assert found["empty", "train"].entities_seen is None
    assert found["test", "train"].leaks == {Shared.PATIENT: 1}


def test_counts_below_ten_are_small_unless_they_are_none() -> None:
    many = [passage(f"{n}", "Rash.", [("problem", "Rash")]) for n in range(10)]

    assert small_cells([describe("many", many)]) == 0
    assert small_cells([describe("few", many[:9])]) == 1


def test_tables_have_a_row_for_each_thing_that_is_counted() -> None:
    assert rows(labels_csv(described()))[:3] == [
        ["set", "kind", "type", "count"],
        ["train", "entity", "drug", "1"],
        ["train", "entity", "problem", "2"],
    ]
    assert rows(lengths_csv(described()))[1:] == [["train", "2", "1"], ["train", "5", "1"], ["test", "5", "1"]]
    assert ["test", "train", "0.500", "1", "0", "0", "0"] in rows(overlap_csv(overlaps(SETS)))


def test_the_page_warns_of_small_counts_and_shows_no_text_and_no_patient() -> None:
    page = markdown(described(), overlaps(SETS))

    assert "A count below 10 may point at a person: 5 of the counts" in page
    assert not any(word in page.casefold() for word in ("aspirin", "rash", "doe"))


@pytest.mark.parametrize("names", [("train",), ("train", "test", "empty"), ("empty",), ("a" * 30, "test")])
def test_plots_can_be_drawn_of_any_sets(names: tuple[str, ...]) -> None:
    chosen = {name: SETS.get(name, TRAIN) for name in names}
    statistics = [describe(name, passages) for name, passages in chosen.items()]
    drawn = [draw_labels(statistics), draw_lengths(statistics)]
    drawn += [draw_overlap(found)] if (found := overlaps(chosen)) else []

    assert all(image.startswith(b"\x89PNG") for image in drawn)

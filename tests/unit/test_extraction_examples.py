"""Passages to examples and predictions back to passages, and what is kept of overlapping mentions."""

from __future__ import annotations

import pytest

from site_agent.trainer.extraction.examples import Example, merge_predictions, training_examples, unlabelled_examples
from site_agent.trainer.extraction.mentions import Mention, flatten
from site_agent.trainer.extraction.passages import Entity, Passage

TEXT = "No pain. He took Vit. D daily.\n  Denies fever."


def passage(*entities: tuple[str, str], text: str = TEXT) -> Passage:
    """A passage with an entity at the first occurrence of each of the given words."""
    return Passage(
        id="p-1",
        text=text,
        entities=tuple(
            Entity(id=f"T{index}", type=kind, start=text.index(words), end=text.index(words) + len(words))
            for index, (kind, words) in enumerate(entities)
        ),
        relations=(),
        document="d-1",
    )


def mention(entity_type: str, start: int, end: int) -> Mention:
    return Mention(start=start, end=end, type=entity_type)


def test_training_examples_hold_their_entities_by_offsets_into_the_sentence() -> None:
    examples = training_examples(passage(("problem", "fever"), ("drug", "Vit. D"), ("problem", "pain")))
    assert [(one.text, one.offset, one.entities) for one in examples] == [
        ("No pain.", 0, (mention("problem", 3, 7),)),
        ("He took Vit. D daily.", 9, (mention("drug", 8, 14),)),
        ("Denies fever.", 33, (mention("problem", 7, 12),)),
    ]


def test_what_is_predicted_on_does_not_depend_on_gold() -> None:
    annotated = passage(("drug", "Vit. D"))
    examples = unlabelled_examples(annotated.id, annotated.text)
    assert [one.text for one in examples] == ["No pain.", "He took Vit.", "D daily.", "Denies fever."]
    assert all(one.entities == () and one.passage_id == "p-1" for one in examples)


def test_white_space_at_the_edges_of_an_entity_stays_outside_its_sentence() -> None:
    (example,) = training_examples(passage(("problem", "  pain "), text="  pain "))
    assert (example.text, example.offset, example.entities) == ("pain", 2, (mention("problem", 0, 4),))


def test_predictions_come_back_by_offsets_into_the_passage() -> None:
    examples = unlabelled_examples("p-1", TEXT)
    predictions = [[mention("problem", 3, 7)], [], [], [mention("problem", 7, 12)]]
    merged = merge_predictions(examples, predictions)
    assert [TEXT[one.start : one.end] for one in merged] == ["pain", "fever"]


def test_predictions_for_fewer_sentences_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        merge_predictions(unlabelled_examples("p-1", TEXT), [[]])


def test_the_text_of_an_example_is_not_in_its_representation() -> None:
    assert "pain" not in repr(Example(text="pain", entities=(), offset=0, passage_id="p-1"))


def test_of_overlapping_mentions_the_longest_is_kept() -> None:
    longest, nested, crossing = mention("problem", 5, 20), mention("problem", 6, 9), mention("drug", 2, 7)
    apart = mention("test", 20, 23)
    assert flatten([nested, crossing, apart, longest]) == (longest, apart)


def test_of_equally_long_mentions_the_first_and_then_the_first_by_name_is_kept() -> None:
    assert flatten([mention("drug", 1, 4), mention("test", 0, 3), mention("problem", 0, 3)]) == (
        mention("problem", 0, 3),
    )


def test_mentions_that_touch_do_not_overlap() -> None:
    touching = mention("drug", 0, 3), mention("drug", 3, 6)
    assert flatten(touching) == touching

"""An encoder learns: from annotated types alone, the same after a kill, and a sentence by heart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from common.errors import InputInvalidError
from common.terms import Schedule, TrainingTerms
from lab.encoder.finding import find_entities
from lab.encoder.lessons import Lesson, lessons_of
from lab.encoder.model import Encoder, load_encoder, masked, read_parameters, word_logits, write_parameters
from lab.encoder.training import Course, mean_loss, train, word_losses
from site_agent.trainer.extraction.passages import Entity, Passage
from site_agent.trainer.training.checkpoints import CheckpointFile
from tests.tiny_bert import make_tiny_bert

TYPES = ("drug", "problem")
TEXT = "Aspirin for fever."
BOTH = (Entity(id="1", type="drug", start=0, end=7), Entity(id="2", type="problem", start=12, end=17))
TERMS = TrainingTerms(learning_rate=3e-3, local_epochs=2, schedule=Schedule.CONSTANT, batch_size=2)


def passage(*entities: Entity, text: str = TEXT) -> Passage:
    return Passage(id="p", text=text, entities=entities, relations=(), document="d")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_bert(tmp_path_factory.mktemp("bert"))


def encoder(folder: Path, seed: int = 1) -> Encoder:
    return load_encoder(folder, TYPES, torch.device("cpu"), seed)


def lessons(one: Encoder, *sets: Passage, room: int = 512) -> list[Lesson]:
    return [lesson for each in lessons_of([[each] for each in sets], TYPES, one.pieces, room) for lesson in each]


def values(one: Encoder) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in one.parameters.items()}


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, right[name]) for name, value in left.items())


def no_checkpoint(folder: Path) -> CheckpointFile:
    return CheckpointFile(folder / "none.safetensors", "none", every_seconds=1e9)


def test_a_type_that_a_corpus_does_not_annotate_has_no_part_in_the_loss_nor_in_its_gradient(folder: Path) -> None:
    one = encoder(folder)
    (lesson,) = lessons(one, passage(BOTH[1]))
    one.model.train(False)

    losses = word_losses(one, [lesson])
    losses.sum().backward()  # type: ignore[no-untyped-call]

    logits = word_logits(one, [lesson.window])[:, [0, 3, 4]]
    among = torch.tensor([{0: 0, 3: 1, 4: 2}[label] for label in lesson.labels])
    expected = nn.functional.cross_entropy(logits, among, reduction="none")
    assert torch.allclose(losses, expected, atol=1e-6)
    gradient = one.model.classifier.weight.grad
    assert gradient is not None
    assert gradient[[1, 2]].abs().max() == 0
    assert gradient[[0, 3, 4]].abs().min() > 0


def test_a_label_that_is_not_allowed_is_never_the_likeliest() -> None:
    logits = torch.tensor([[0.0, 9.0, 1.0]])

    assert masked(logits, torch.tensor([True, False, True])).argmax().item() == 2


def test_padding_changes_no_logit(folder: Path) -> None:
    one = encoder(folder)
    one.model.train(False)
    long = lessons(one, passage(*BOTH, text=TEXT + " It was given twice a day, for a week, by mouth"))[0].window
    short = lessons(one, passage(*BOTH))[0].window

    together, alone = word_logits(one, [short, long]), word_logits(one, [short])

    assert torch.allclose(together[: len(alone)], alone, atol=2e-2 if one.dtype is torch.bfloat16 else 1e-5)


def test_every_site_begins_with_the_output_layer_that_the_seed_gives(folder: Path) -> None:
    first, again, other = (values(encoder(folder, seed)) for seed in (1, 1, 2))

    assert same(first, again)
    differing = {name for name, value in first.items() if not torch.equal(value, other[name])}
    assert differing == {"classifier.weight"}


def test_all_parameters_are_trained_and_come_back_from_their_file(folder: Path, tmp_path: Path) -> None:
    one = encoder(folder)
    before = values(one)

    train(one, Course(lessons=lessons(one, passage(*BOTH)), terms=TERMS, seed=1), no_checkpoint(tmp_path), untold)
    write_parameters(one, tmp_path / "parameters.safetensors")
    other = encoder(folder, seed=9)
    read_parameters(other, tmp_path / "parameters.safetensors")

    assert not any(torch.equal(value, before[name]) for name, value in values(one).items())
    assert same(values(one), values(other))


def test_parameters_for_other_types_are_refused(folder: Path, tmp_path: Path) -> None:
    write_parameters(load_encoder(folder, ("problem",), torch.device("cpu"), 1), tmp_path / "parameters.safetensors")

    with pytest.raises(InputInvalidError, match="others in 2, such as classifier"):
        read_parameters(encoder(folder), tmp_path / "parameters.safetensors")


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize("dies_at", [1, 3, 5])
def test_killed_after_any_step_it_goes_on_to_the_same_parameters_bit_for_bit(
    folder: Path, tmp_path: Path, dies_at: int
) -> None:
    notes = [passage(*BOTH, text=TEXT + " Then again" * number) for number in range(5)]

    def course(one: Encoder) -> Course:
        return Course(lessons=lessons(one, *notes), terms=TERMS, seed=4)

    def die(step: int, steps: int, loss: float) -> None:
        if step == dies_at + 1:  # what was kept is of the step before
            raise Killed

    undisturbed, killed, resumed = (encoder(folder) for _ in range(3))
    expected = train(undisturbed, course(undisturbed), no_checkpoint(tmp_path), untold)
    with pytest.raises(Killed):
        train(killed, course(killed), CheckpointFile(tmp_path / "c.safetensors", "key", 0.0), die)
    told: list[int] = []
    got = train(
        resumed,
        course(resumed),
        CheckpointFile(tmp_path / "c.safetensors", "key", 0.0),
        lambda step, steps, loss: told.append(step),
    )

    assert told[0] == dies_at + 1
    assert same(values(undisturbed), values(resumed))
    assert replace(got, seconds=0.0) == replace(expected, seconds=0.0)


def test_it_learns_a_sentence_by_heart_and_finds_its_entities_and_no_others(folder: Path, tmp_path: Path) -> None:
    one = encoder(folder)
    terms = replace(TERMS, local_epochs=60)

    train(one, Course(lessons=lessons(one, passage(*BOTH)), terms=terms, seed=1), no_checkpoint(tmp_path), untold)

    found, only_drugs = (find_entities(one, [TEXT], TYPES, asked, lambda done: None) for asked in (TYPES, ["drug"]))
    assert found == [tuple(entity.mention for entity in BOTH)]
    assert {mention.type for mention in only_drugs[0]} == {"drug"}
    assert mean_loss(one, lessons(one, passage(*BOTH)), terms) < 0.1


def test_a_sentence_longer_than_the_encoder_reads_is_read_in_windows(folder: Path) -> None:
    one = encoder(folder)
    parts = lessons(one, passage(*BOTH), room=12)

    assert len(parts) > 1
    assert [label for part in parts for label in part.labels] == list(lessons(one, passage(*BOTH))[0].labels)
    narrow = replace(one, room=12)
    assert [find_entities(narrow, [TEXT], TYPES, TYPES, lambda done: None)]


def test_notes_that_annotate_none_of_the_types_are_refused(folder: Path) -> None:
    one = encoder(folder)
    other = Entity(id="1", type="severity", start=0, end=7)

    with pytest.raises(InputInvalidError, match="expected entities of drug, problem, got none"):
        lessons(one, passage(other))


def untold(step: int, steps: int, loss: float) -> None:
    """Nobody is told."""

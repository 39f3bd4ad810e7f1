"""Training that is killed and goes on from its checkpoint: the same losses and the same factors, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from common.adapter import WireDtype
from common.terms import LoraTerms, Schedule, TrainingTerms
from site_agent.trainer.order_files import StoppedError
from site_agent.trainer.training.base_model import LoadedModel
from site_agent.trainer.training.checkpoints import CheckpointFile
from site_agent.trainer.training.loop import Course, StepReport, TrainingOutcome, train
from site_agent.trainer.training.lora import (
    adapter_parameters,
    adapter_spec,
    attach_adapter,
    initial_adapter,
    set_adapter,
)
from site_agent.trainer.training.tokens import TokenizedExample
from tests.tiny_model import TINY_TARGET_MODULES, load_tiny_model, make_tiny_model

# Dropout, warm-up, two epochs, a rate of its own for B: everything that a resumed training must pick up.
LORA = LoraTerms(lora_rank=4, lora_alpha=16, lora_dropout=0.2, target_modules=TINY_TARGET_MODULES)
TERMS = TrainingTerms(
    learning_rate=1e-3,
    lora_plus_ratio=8.0,
    batch_size=4,
    local_epochs=2,
    schedule=Schedule.COSINE,
    warmup_ratio=0.3,
    weight_decay=0.1,
    proximal_mu=0.5,
)
EXAMPLES = [
    TokenizedExample(ids=(5, 6, 7, *range(8, 12 + number % 5), 50, 51, 52, 1), learned_from=7 + number % 5)
    for number in range(20)
]
STEPS = 10


class Killed(Exception):
    """Stands for a SIGKILL between two steps."""


class Life:
    """One life of a trainer; it is killed before step ``dies_before``."""

    def __init__(self, folder: Path, checkpoint: CheckpointFile | None = None, dies_before: int = STEPS + 1) -> None:
        self.loaded: LoadedModel = load_tiny_model(folder)
        self.adapted: PeftModel = attach_adapter(self.loaded.model, LORA)
        set_adapter(self.adapted, initial_adapter(adapter_spec(folder, LORA, WireDtype.F32), seed=1))
        self.checkpoint = checkpoint
        self.dies_before = dies_before
        self.losses: dict[int, float] = {}

    def train(self, course: Course | None = None) -> TrainingOutcome:
        """Train, unless killed."""
        course = course or Course(examples=EXAMPLES, terms=TERMS, seed=3)
        return train(self.loaded, self.adapted, course, self._report, self.checkpoint)

    def _report(self, step: StepReport) -> None:
        if step.step == self.dies_before:
            raise Killed
        self.losses[step.step] = step.loss

    @property
    def factors(self) -> dict[str, torch.Tensor]:
        return {name: one.detach().clone() for name, one in adapter_parameters(self.adapted).items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> Life:
    life = Life(folder)
    life.train()
    return life


def checkpoint_in(folder: Path, key: str = "this course", every_seconds: float = 0.0) -> CheckpointFile:
    return CheckpointFile(folder / "checkpoint.safetensors", key, every_seconds)


def killed_before(step: int, folder: Path, home: Path, every_seconds: float = 0.0) -> Life:
    life = Life(folder, checkpoint_in(home, every_seconds=every_seconds), dies_before=step)
    with pytest.raises(Killed):
        life.train()
    return life


def same(factors: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    return factors.keys() == others.keys() and all(torch.equal(factors[name], others[name]) for name in factors)


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_killed_at_any_step_it_goes_on_to_the_same_factors(
    step: int, folder: Path, undisturbed: Life, tmp_path: Path
) -> None:
    first = killed_before(step, folder, tmp_path)
    second = Life(folder, checkpoint_in(tmp_path))
    second.train()
    assert same(second.factors, undisturbed.factors)
    assert first.losses | second.losses == undisturbed.losses
    assert min(second.losses) == max(first.losses, default=0) + 1, "no step is done twice"


def test_a_training_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    folder: Path, undisturbed: Life, tmp_path: Path
) -> None:
    for step in range(2, STEPS + 1):
        killed_before(step, folder, tmp_path)
    last = Life(folder, checkpoint_in(tmp_path))
    outcome = last.train()
    assert same(last.factors, undisturbed.factors)
    assert outcome.steps == STEPS


def test_the_mean_loss_and_the_padding_do_not_depend_on_kills(folder: Path, tmp_path: Path) -> None:
    wanted = Life(folder).train()
    killed_before(8, folder, tmp_path)
    outcome = Life(folder, checkpoint_in(tmp_path)).train()
    assert (outcome.mean_loss, outcome.padding_share) == (wanted.mean_loss, wanted.padding_share)


def test_asked_to_stop_it_ends_after_its_step_and_goes_on_to_the_same_factors(
    folder: Path, undisturbed: Life, tmp_path: Path
) -> None:
    asked = iter([False, False, True])
    stopping = CheckpointFile(tmp_path / "checkpoint.safetensors", "this course", 3600, must_stop=lambda: next(asked))
    first = Life(folder, stopping)
    with pytest.raises(StoppedError):
        first.train()
    assert sorted(first.losses) == [1, 2, 3]
    second = Life(folder, checkpoint_in(tmp_path))
    second.train()
    assert same(second.factors, undisturbed.factors)
    assert first.losses | second.losses == undisturbed.losses


def test_without_a_checkpoint_it_begins_again(folder: Path, undisturbed: Life, tmp_path: Path) -> None:
    killed_before(8, folder, tmp_path, every_seconds=3600)
    assert list(tmp_path.iterdir()) == []
    second = Life(folder, checkpoint_in(tmp_path))
    second.train()
    assert second.losses == undisturbed.losses


def test_a_disk_that_takes_no_checkpoint_costs_nothing_else(
    folder: Path, undisturbed: Life, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    life = Life(folder, checkpoint_in(tmp_path / "not there"))
    life.train()
    assert same(life.factors, undisturbed.factors)
    assert "checkpoint_failed" in capsys.readouterr().err


def test_a_checkpoint_of_another_course_means_nothing(folder: Path, undisturbed: Life, tmp_path: Path) -> None:
    killed_before(8, folder, tmp_path)
    second = Life(folder, checkpoint_in(tmp_path, key="another course"))
    second.train()
    assert second.losses == undisturbed.losses


@pytest.mark.parametrize("content", [b"", b"\xff" * 200], ids=["empty", "garbage"])
def test_a_checkpoint_that_cannot_be_read_means_nothing(
    content: bytes, folder: Path, undisturbed: Life, tmp_path: Path
) -> None:
    (tmp_path / "checkpoint.safetensors").write_bytes(content)
    second = Life(folder, checkpoint_in(tmp_path))
    second.train()
    assert second.losses == undisturbed.losses


def test_factors_that_are_not_trained_are_neither_kept_nor_changed(folder: Path, tmp_path: Path) -> None:
    def only_b(life: Life) -> Life:
        for name, parameter in adapter_parameters(life.adapted).items():
            parameter.requires_grad_("lora_B" in name)
        return life

    wanted = only_b(Life(folder))
    wanted.train()
    with pytest.raises(Killed):
        only_b(Life(folder, checkpoint_in(tmp_path), dies_before=5)).train()
    second = only_b(Life(folder, checkpoint_in(tmp_path)))
    second.train()
    assert same(second.factors, wanted.factors)


def test_a_checkpoint_is_for_the_site_alone(folder: Path, tmp_path: Path) -> None:
    killed_before(2, folder, tmp_path)
    (file,) = tmp_path.iterdir()
    assert file.stat().st_mode & 0o077 == 0


def test_another_schedule_is_another_course_of_losses(folder: Path, undisturbed: Life) -> None:
    """The losses compared above do depend on what is restored."""
    life = Life(folder)
    life.train(Course(examples=EXAMPLES, terms=replace(TERMS, schedule=Schedule.CONSTANT), seed=3))
    assert life.losses != undisturbed.losses

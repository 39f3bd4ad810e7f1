"""The three orders, each from files to files: the first adapter, a round of training, a score. No failures here."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import assert_never

import torch
from torch import Tensor

from common.adapter import WireDtype
from common.errors import InputInvalidError, Reason
from common.terms import Task
from common.weights_io import file_digest
from site_agent.orders import (
    ADAPTER_FILE,
    CHECKPOINT_FILE,
    ORDER,
    OWN_FILE,
    PERSONAL_FILE,
    SIDE_FILE,
    UPDATE_FILE,
    EvaluateOrder,
    EvaluateResult,
    InitialiseOrder,
    InitialiseResult,
    Progress,
    TaskCounts,
    TrainerStage,
    TrainOrder,
    TrainResult,
)
from site_agent.trainer.choices import examples_of_round, thinned
from site_agent.trainer.extraction.passage_files import read_passage_sets
from site_agent.trainer.order_files import ProgressFile, is_asked_to_stop
from site_agent.trainer.training.adapter_files import read_adapter, write_adapter
from site_agent.trainer.training.base_model import choose_device, load_base_model
from site_agent.trainer.training.checkpoints import CheckpointFile
from site_agent.trainer.training.evaluate import evaluate
from site_agent.trainer.training.examples import check_any, not_longer_than, questions_about, tokenized_examples
from site_agent.trainer.training.loop import Course, StepReport, train
from site_agent.trainer.training.lora import (
    adapter_parameters,
    adapter_spec,
    add_beside,
    attach_adapter,
    factors_of,
    initial_adapter,
    set_adapter,
)
from site_agent.trainer.training.memory import keep_to_share, peak_memory_bytes
from site_agent.trainer.training.tokens import TokenizedExample


def perform(
    order: InitialiseOrder | TrainOrder | EvaluateOrder, base_model: Path, folder: Path, progress: ProgressFile
) -> InitialiseResult | TrainResult | EvaluateResult:
    """Do ``order`` in its ``folder``, with the base model in ``base_model``, whose digests were checked."""
    keep_to_share(order.base_model)
    match order:
        case InitialiseOrder():
            return _initialise(order, base_model, folder)
        case TrainOrder():
            return _train(order, base_model, folder, progress)
        case EvaluateOrder():
            return evaluate(order, base_model, folder / ADAPTER_FILE, progress)
        case _:
            assert_never(order)


def _initialise(order: InitialiseOrder, base_model: Path, folder: Path) -> InitialiseResult:
    """It needs the base model's shapes and none of its weights."""
    spec = adapter_spec(base_model, order.lora, WireDtype(order.wire_dtype))
    write_adapter(folder / UPDATE_FILE, initial_adapter(spec, order.seed), spec.dtype)
    return InitialiseResult(spec=spec)


def _course_key(order: TrainOrder, course: Course, starts: Sequence[Path], device: torch.device) -> str:
    """What a checkpoint must be of: these settings, adapters and examples, on this device, by this software.

    Where notes and base model lie does not matter: the examples, and the digests in the order, say what they are.
    """
    settings = replace(
        order, checkpoint_seconds=0.0, data_files=(), base_model=replace(order.base_model, location="", device="")
    )
    software = [f"{name} {version(name)}" for name in ("fedmedlora", "peft", "torch", "transformers")]
    key = hashlib.sha256(ORDER.dump_json(settings))
    for part in (*map(file_digest, starts), str(device), *software):
        key.update(part.encode())
    for example in course.examples:
        key.update(repr((example.learned_from, example.ids)).encode())
    return key.hexdigest()


def _start_of(folder: Path) -> dict[str, Tensor]:
    """The adapter in the folder, with the site's own factors in place of its own, where there are any."""
    adapter, own = read_adapter(folder / ADAPTER_FILE), folder / OWN_FILE
    return adapter | read_adapter(own) if own.exists() else adapter


def _of_round(order: TrainOrder, parts: Sequence[Sequence[TokenizedExample]]) -> list[TokenizedExample]:
    """The round's examples: of all files together, or file by file as the order's shares say.

    Raises:
        InputInvalidError: NOTES_TOO_FEW, when none is left.
    """
    training = order.training
    caps = [share.examples_per_round for share in order.shares] or [training.examples_per_round]
    chosen: list[TokenizedExample] = []
    short_enough = 0
    for part, cap in zip(parts, caps, strict=True):
        fit = [example for example in part if len(example.ids) <= training.max_length]
        short_enough += len(fit)
        if training.max_empty_share:
            fit = thinned(fit, lambda one: (one.task, one.is_empty), training.max_empty_share, order.seed)
        chosen += examples_of_round(fit, cap, order.round_number, order.seed)
    if not chosen:
        expected = "an example with something to find (training.max_empty_share)"
        message = f"notes: expected {expected}, got {short_enough} without"
        raise InputInvalidError(Reason.NOTES_TOO_FEW, message)
    return chosen


def _train(order: TrainOrder, base_model: Path, folder: Path, progress: ProgressFile) -> TrainResult:
    sets = read_passage_sets([Path(name) for name in order.data_files])
    tasks = [share.tasks for share in order.shares] or [order.tasks] * len(sets)
    questions = [questions_about(passages, order.task, asked) for passages, asked in zip(sets, tasks, strict=True)]
    check_any([one for asked in questions for one in asked], order.task, {one for asked in tasks for one in asked})
    device = choose_device(order.base_model.device)
    loaded = load_base_model(base_model, device, order.training.quantization)
    by_file = [
        [
            example
            for question in asked
            for example in tokenized_examples(loaded.tokenizer, question, passages, order.training.loss_on)
        ]
        for passages, asked in zip(sets, questions, strict=True)
    ]
    every = [example for examples in by_file for example in examples]
    fit = not_longer_than(every, order.training)
    examples = _of_round(order, by_file if order.shares else [fit])
    adapted = attach_adapter(loaded.model, order.lora)
    set_adapter(adapted, _start_of(folder))
    if order.side_lora_rank:
        add_beside(adapted, order.lora, read_adapter(folder / SIDE_FILE), order.side_lora_rank)
    trained = factors_of(adapted, order.trained)
    for name, parameter in adapter_parameters(adapted).items():
        parameter.requires_grad_(name in trained)

    def report(step: StepReport) -> None:
        progress.report(
            Progress(
                stage=TrainerStage.TRAINING,
                step=step.step,
                steps=step.steps,
                loss=step.loss,
                tokens_per_second=step.tokens_per_second,
            )
        )

    course = Course(examples=examples, terms=order.training, seed=order.seed + order.round_number)
    starts = [folder / name for name in (ADAPTER_FILE, SIDE_FILE, OWN_FILE) if (folder / name).exists()]
    key = _course_key(order, course, starts, device)
    checkpoint = CheckpointFile(
        folder / CHECKPOINT_FILE, key, order.checkpoint_seconds, must_stop=partial(is_asked_to_stop, folder)
    )
    outcome = train(loaded, adapted, course, report, checkpoint)
    progress.report(Progress(stage=TrainerStage.WRITING, step=outcome.steps, steps=outcome.steps))
    write_adapter(folder / UPDATE_FILE, factors_of(adapted, order.uploaded), WireDtype(order.wire_dtype))
    if order.own is not None:  # as they are: nothing of them is rounded for the wire
        write_adapter(folder / PERSONAL_FILE, factors_of(adapted, order.own), WireDtype.F32)
    return TrainResult(
        num_examples=len(examples),
        num_left_out=len(every) - len(fit),
        num_label_tokens=sum(example.num_label_tokens for example in examples),
        mean_loss=outcome.mean_loss,
        steps=outcome.steps,
        seconds=outcome.seconds,
        tokens_per_second=outcome.tokens_per_second,
        padding_share=outcome.padding_share,
        peak_memory_bytes=peak_memory_bytes(device),
        tasks=_counts_by_task(examples),
    )


def _counts_by_task(examples: Sequence[TokenizedExample]) -> tuple[TaskCounts, ...]:
    by_task = {task: [example for example in examples if example.task is task] for task in Task}
    return tuple(
        TaskCounts(
            task=task, num_examples=len(those), num_label_tokens=sum(example.num_label_tokens for example in those)
        )
        for task, those in by_task.items()
        if those
    )

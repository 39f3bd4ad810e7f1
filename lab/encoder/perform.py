"""The encoder's two orders, from files to files: a round of training, a score.

They are the orders of the sites' own trainer (`site_agent.orders`), of which an encoder needs less: what they say of
LoRA, of prompts and of quantisation is of no account here. Beside the order lie parameters where an adapter would.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from itertools import groupby
from operator import itemgetter
from pathlib import Path

import torch

from common.errors import InputInvalidError, Reason
from common.terms import Task
from common.weights_io import file_digest
from lab.encoder.finding import find_entities
from lab.encoder.folder import check_encoder
from lab.encoder.lessons import Lesson, lessons_of
from lab.encoder.model import Encoder, load_encoder, read_parameters, write_parameters
from lab.encoder.training import Course, mean_loss, train
from site_agent.orders import (
    ADAPTER_FILE,
    CHECKPOINT_FILE,
    ORDER,
    UPDATE_FILE,
    EvaluateOrder,
    EvaluateResult,
    Progress,
    TaskScores,
    TrainerStage,
    TrainOrder,
    TrainResult,
)
from site_agent.trainer.choices import examples_of_round
from site_agent.trainer.extraction.passage_files import read_passage_sets
from site_agent.trainer.extraction.scoring import (
    MatchScores,
    add_scores,
    document_counts,
    file_counts,
    score_documents,
    scored_types,
)
from site_agent.trainer.order_files import ProgressFile, read_order, write_result
from site_agent.trainer.training.base_model import choose_device
from site_agent.trainer.training.checkpoints import CheckpointFile
from site_agent.trainer.training.memory import keep_to_share, peak_memory_bytes


def perform(folder: Path) -> None:
    """Do the order in ``folder``.

    Raises:
        InputInvalidError: what is wrong with the order, the encoder or the notes.
    """
    order, progress = read_order(folder), ProgressFile(folder)
    progress.report(Progress(stage=TrainerStage.LOADING))
    keep_to_share(order.base_model)
    check_encoder(Path(order.base_model.location), order.base_model.expected)
    match order:
        case TrainOrder():
            write_result(folder, _train(order, folder, progress))
            (folder / CHECKPOINT_FILE).unlink(missing_ok=True)  # three times the model
        case EvaluateOrder():
            write_result(folder, _evaluate(order, folder, progress))
        case _:
            message = f"order: expected train or evaluate of an encoder, got {order.kind}"
            raise InputInvalidError(Reason.SETTINGS_UNSUPPORTED, message)


def _loaded(order: TrainOrder | EvaluateOrder, folder: Path) -> Encoder:
    """The encoder with the parameters in the folder; in a first round, with those that all sites begin with."""
    device = choose_device(order.base_model.device)
    types = order.task.entity_types
    encoder = load_encoder(Path(order.base_model.location), types, device, order.seed)
    if (folder / ADAPTER_FILE).exists():
        read_parameters(encoder, folder / ADAPTER_FILE)
    elif isinstance(order, EvaluateOrder):
        message = "order: expected the parameters of a trained encoder, for a new output layer says nothing, got none"
        raise InputInvalidError(Reason.SETTINGS_UNSUPPORTED, message)
    return replace(encoder, room=min(encoder.room, order.training.max_length))


def _train(order: TrainOrder, folder: Path, progress: ProgressFile) -> TrainResult:
    encoder = _loaded(order, folder)
    sets = read_passage_sets([Path(name) for name in order.data_files])
    every = lessons_of(sets, order.task.entity_types, encoder.pieces, encoder.room)
    sentences = examples_of_round(every, order.training.examples_per_round, order.round_number, order.seed)
    lessons = [lesson for sentence in sentences for lesson in sentence]
    course = Course(lessons=lessons, terms=order.training, seed=order.seed + order.round_number)
    key = _course_key(order, lessons, folder / ADAPTER_FILE, encoder.device)
    checkpoint = CheckpointFile(folder / CHECKPOINT_FILE, key, order.checkpoint_seconds)

    def report(step: int, steps: int, loss: float) -> None:
        progress.report(Progress(stage=TrainerStage.TRAINING, step=step, steps=steps, loss=loss))

    tally = train(encoder, course, checkpoint, report)
    write_parameters(encoder, folder / UPDATE_FILE)
    return TrainResult(
        num_examples=len(sentences),
        num_label_tokens=sum(len(lesson.labels) for lesson in lessons),
        mean_loss=tally.loss_sum / tally.labels,
        steps=tally.step,
        seconds=tally.seconds,
        tokens_per_second=tally.tokens / tally.seconds,
        padding_share=tally.padding / (tally.tokens + tally.padding),
        peak_memory_bytes=peak_memory_bytes(encoder.device),
    )


def _course_key(order: TrainOrder, lessons: Sequence[Lesson], start: Path, device: torch.device) -> str:
    """What a checkpoint must be of: these settings, parameters and lessons, on this device, by this software."""
    source = replace(order.base_model, location="", device="")
    key = hashlib.sha256(ORDER.dump_json(replace(order, checkpoint_seconds=0.0, data_files=(), base_model=source)))
    software = [f"{name} {version(name)}" for name in ("fedmedlora", "torch", "transformers")]
    for part in (file_digest(start) if start.exists() else "", str(device), *software):
        key.update(part.encode() + b"\0")
    for lesson in lessons:
        key.update(repr((lesson.ids, lesson.window.firsts, lesson.labels, lesson.allowed)).encode())
    return key.hexdigest()


def _evaluate(order: EvaluateOrder, folder: Path, progress: ProgressFile) -> EvaluateResult:
    started = time.monotonic()
    encoder, types = _loaded(order, folder), order.task.entity_types
    sets = read_passage_sets([Path(name) for name in order.data_files])
    sentences = lessons_of(sets, types, encoder.pieces, encoder.room)
    lessons = [lesson for sentence in sentences for lesson in sentence]
    scores = TaskScores(
        task=Task.ENTITIES,
        mean_loss=mean_loss(encoder, lessons, order.training) if order.measure_loss else None,
        num_label_tokens=sum(len(lesson.labels) for lesson in lessons),
        num_examples=len(sentences),
    )

    def report(done: int) -> None:
        progress.report(Progress(stage=TrainerStage.SCORING, step=done, steps=max(done, len(sentences))))

    found: list[tuple[int, MatchScores]] = []
    for file, passages in enumerate(sets if order.generate else []):
        if asked := scored_types(passages, types):
            predicted = find_entities(encoder, [one.text for one in passages], types, asked, report)
            found += [(file, one) for one in score_documents(passages, predicted, asked).values()]
    if found:
        scores = _with_f1(scores, found, tells_documents=order.tell_documents)
    return EvaluateResult(
        mean_loss=scores.mean_loss,
        num_label_tokens=scores.num_label_tokens,
        num_examples=scores.num_examples,
        num_passages=sum(map(len, sets)),
        strict=scores.strict,
        lenient=scores.lenient,
        strict_agnostic=scores.strict_agnostic,
        lenient_agnostic=scores.lenient_agnostic,
        per_type=scores.per_type,
        documents=scores.documents,
        seconds=time.monotonic() - started,
        tasks=(scores,),
    )


def _with_f1(scores: TaskScores, found: Sequence[tuple[int, MatchScores]], *, tells_documents: bool) -> TaskScores:
    """The scores with those of each document, which stands beside the number of its file."""
    total = add_scores(one for _, one in found)
    by_file = [(file, [one for _, one in group]) for file, group in groupby(found, key=itemgetter(0))]
    return replace(
        scores,
        strict=total.strict,
        lenient=total.lenient,
        strict_agnostic=total.strict_agnostic,
        lenient_agnostic=total.lenient_agnostic,
        per_type=total.per_type,
        documents=document_counts(found) if tells_documents else (),
        files=tuple(file_counts(file, scores) for file, scores in by_file) if tells_documents else (),
    )

"""An EVALUATE order: token loss and F1 of one adapter, or of the bare base model, on passages, task by task."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from common.terms import Task
from site_agent.orders import EvaluateOrder, EvaluateResult, FileCounts, Progress, TaskScores, TrainerStage
from site_agent.trainer.choices import choose_shots, sample_in_order, shares_of
from site_agent.trainer.extraction.passage_files import read_passage_sets, read_passages
from site_agent.trainer.extraction.passages import Passage
from site_agent.trainer.extraction.scoring import (
    MatchScores,
    add_scores,
    bootstrap_f1,
    document_counts,
    file_counts,
    score_documents,
    score_relation_documents,
)
from site_agent.trainer.extraction.set_digest import check_apart, set_digest
from site_agent.trainer.order_files import ProgressFile
from site_agent.trainer.training.adapter_files import read_adapter
from site_agent.trainer.training.answering import Reader, find_entities, find_relations
from site_agent.trainer.training.base_model import choose_device, load_base_model
from site_agent.trainer.training.evaluation import LossSum, added_losses, token_loss
from site_agent.trainer.training.examples import Question, check_any, questions_about, roles_of, tokenized_examples
from site_agent.trainer.training.lora import with_adapter
from site_agent.trainer.training.tokens import TokenizedExample

Report = Callable[[int], None]


def evaluate(order: EvaluateOrder, base_model: Path, adapter: Path, progress: ProgressFile) -> EvaluateResult:
    """Score the adapter in the file ``adapter``, if there is one, as the order says.

    Each file is asked for what it annotates, and the counts are added up; ``max_passages`` is shared out evenly.
    """
    started = time.monotonic()
    sets = read_passage_sets([Path(name) for name in order.data_files])
    every = [passage for passages in sets for passage in passages]
    check_apart(
        every, read_passages([Path(name) for name in order.test_files]) if order.test_files else (), order.test_digest
    )
    samples = _samples(order, sets)
    loaded = load_base_model(base_model, choose_device(order.base_model.device), order.training.quantization)
    if adapter.exists():
        loaded = with_adapter(loaded, order.lora, read_adapter(adapter))
    examples = [
        example
        for sample in samples
        for question in sample.questions
        for example in tokenized_examples(loaded.tokenizer, question, sample.passages, order.training.loss_on)
    ]
    steps = len(examples) * (order.measure_loss + order.generate)
    done = 0

    def report(more: int) -> None:
        progress.report(Progress(stage=TrainerStage.SCORING, step=min(done + more, steps), steps=steps))

    tasks, losses = [], []
    for task in order.task.tasks:
        those = [example for example in examples if example.task is task]
        if not those:
            continue
        scores = _counted(task, those)
        if order.measure_loss:
            losses.append(token_loss(loaded, those, order.training, report))
            scores = replace(scores, mean_loss=losses[-1].mean)
            done += len(those)
        if order.generate:
            reader = Reader(loaded=loaded, max_length=order.training.max_length, report=report)
            answered = _answered(reader, task, samples)
            scores = _with_f1(order, scores, answered)
            done += answered.asked
        tasks.append(scores)
    return replace(
        _of_all_tasks(tasks, losses),
        num_passages=sum(len(sample.passages) for sample in samples),
        data_digest=set_digest(every),
        seconds=time.monotonic() - started,
    )


def _counted(task: Task, examples: Sequence[TokenizedExample]) -> TaskScores:
    return TaskScores(
        task=task,
        mean_loss=None,
        num_label_tokens=sum(example.num_label_tokens for example in examples),
        num_examples=len(examples),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """The passages of the order's file number ``file`` that are scored, and what is asked about them."""

    file: int
    passages: Sequence[Passage]
    questions: Sequence[Question]

    def of(self, task: Task) -> list[Question]:
        return [question for question in self.questions if question.is_of is task]


def _samples(order: EvaluateOrder, sets: Sequence[Sequence[Passage]]) -> list[_Sample]:
    shots = read_passages([Path(name) for name in order.shot_files]) if order.shots else ()
    shares = shares_of(order.max_passages, len(sets))
    asked = read_passage_sets([Path(name) for name in order.asked_files]) if order.asked_files else sets
    samples = [
        _Sample(
            file=file,
            passages=sample_in_order(passages, share, order.seed),
            questions=_questions(order, annotated, shots),
        )
        for file, (passages, annotated, share) in enumerate(zip(sets, asked, shares, strict=True))
        if share or not order.max_passages
    ]
    check_any([question for sample in samples for question in sample.questions], order.task, tuple(Task))
    return samples


def _questions(order: EvaluateOrder, annotated: Sequence[Passage], shots: Sequence[Passage]) -> list[Question]:
    """What a file annotates is said by all of ``annotated``, not by the passages that are drawn."""
    return [
        replace(
            question,
            shots=choose_shots(tuple(question.gold_examples(shots)), order.shots, question.labels, order.seed),
        )
        for question in questions_about(annotated, order.task, tuple(Task))
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    """Scores of each document with the number of its file, and what is told of each file as a whole."""

    documents: tuple[tuple[int, MatchScores], ...] = ()
    files: tuple[FileCounts, ...] = ()

    @property
    def asked(self) -> int:
        return sum(one.answers for one in self.files)

    @property
    def malformed(self) -> int:
        return sum(one.malformed_answers for one in self.files)


def _answered(reader: Reader, task: Task, samples: Sequence[_Sample]) -> _Answered:
    total = _Answered()
    for sample in samples:
        questions = sample.of(task)
        if not questions:
            continue
        answer = _entities_answered if task is Task.ENTITIES else _relations_answered
        more = answer(replace(reader, report=partial(_report_from, reader.report, total.asked)), sample, questions)
        total = _Answered(documents=total.documents + more.documents, files=total.files + more.files)
    return total


def _entities_answered(reader: Reader, sample: _Sample, questions: Sequence[Question]) -> _Answered:
    (question,) = questions
    answers = find_entities(reader, question, [passage.text for passage in sample.passages])
    scores = score_documents(sample.passages, answers.entities, question.labels)
    return _of_file(sample.file, tuple(scores.values()), answers.asked, answers.malformed)


def _relations_answered(reader: Reader, sample: _Sample, questions: Sequence[Question]) -> _Answered:
    """Heads are the gold ones, as in the paper: what is scored is the relations alone."""
    heads = [[entity.mention for entity in passage.entities] for passage in sample.passages]
    answers = find_relations(reader, questions, [passage.text for passage in sample.passages], heads)
    scores = score_relation_documents(sample.passages, answers.relations, roles_of(questions))
    return _of_file(sample.file, tuple(scores.values()), answers.asked, answers.malformed)


def _of_file(file: int, scores: Sequence[MatchScores], asked: int, malformed: int) -> _Answered:
    return _Answered(
        documents=tuple((file, one) for one in scores), files=(file_counts(file, scores, asked, malformed),)
    )


def _with_f1(order: EvaluateOrder, scores: TaskScores, answered: _Answered) -> TaskScores:
    added = add_scores(document for _, document in answered.documents)
    return replace(
        scores,
        strict=added.strict,
        lenient=added.lenient,
        strict_agnostic=added.strict_agnostic,
        lenient_agnostic=added.lenient_agnostic,
        strict_interval=bootstrap_f1([document.strict for _, document in answered.documents], order.seed),
        per_type=added.per_type,
        documents=document_counts(answered.documents) if order.tell_documents else (),
        files=answered.files if order.tell_documents else (),
        malformed_answers=answered.malformed,
    )


def _of_all_tasks(tasks: Sequence[TaskScores], losses: Collection[LossSum]) -> EvaluateResult:
    result = EvaluateResult(
        mean_loss=added_losses(losses).mean if losses else None,
        num_label_tokens=sum(one.num_label_tokens for one in tasks),
        num_examples=sum(one.num_examples for one in tasks),
        num_passages=0,
        malformed_answers=sum(one.malformed_answers for one in tasks),
        tasks=tuple(tasks),
    )
    entities = next((one for one in tasks if one.task is Task.ENTITIES), None)
    if entities is None:
        return result
    return replace(
        result,
        strict=entities.strict,
        lenient=entities.lenient,
        strict_agnostic=entities.strict_agnostic,
        lenient_agnostic=entities.lenient_agnostic,
        strict_interval=entities.strict_interval,
        per_type=entities.per_type,
        documents=entities.documents,
    )


def _report_from(report: Report, before: int, done: int) -> None:
    report(before + done)

"""An EVALUATE order: token loss and entity F1 of one adapter, or of the bare base model, on annotated passages."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from site_agent.orders import DocumentCounts, EvaluateOrder, EvaluateResult, Progress, TrainerStage
from site_agent.trainer.choices import choose_shots, sample_in_order, shares_of
from site_agent.trainer.extraction.examples import training_examples
from site_agent.trainer.extraction.passage_files import read_passage_sets, read_passages
from site_agent.trainer.extraction.passages import Passage
from site_agent.trainer.extraction.scoring import EntityScores, add_scores, bootstrap_f1, score_documents
from site_agent.trainer.order_files import ProgressFile
from site_agent.trainer.training.adapter_files import read_adapter
from site_agent.trainer.training.answering import find_entities
from site_agent.trainer.training.base_model import LoadedModel, choose_device, load_base_model
from site_agent.trainer.training.evaluation import mean_token_loss
from site_agent.trainer.training.examples import Question, tokenized_examples
from site_agent.trainer.training.lora import with_adapter


def evaluate(order: EvaluateOrder, base_model: Path, adapter: Path, progress: ProgressFile) -> EvaluateResult:
    """Score the adapter in the file ``adapter``, if there is one, as the order says.

    Each file is asked for what it annotates, and the counts are added up; ``max_passages`` is shared out evenly.
    """
    started = time.monotonic()
    sets = read_passage_sets([Path(name) for name in order.data_files])
    shots = read_passages([Path(name) for name in order.shot_files]) if order.shots else ()
    shares = shares_of(order.max_passages, len(sets))
    samples = [
        _sample(order, file, passages, share, shots)
        for file, (passages, share) in enumerate(zip(sets, shares, strict=True))
        if share or not order.max_passages
    ]
    loaded = load_base_model(base_model, choose_device(order.base_model.device), order.training.quantization)
    if adapter.exists():
        loaded = with_adapter(loaded, order.lora, read_adapter(adapter))
    examples = [
        example
        for sample in samples
        for example in tokenized_examples(loaded.tokenizer, sample.question, sample.passages, order.training.loss_on)
    ]
    steps = len(examples) * (order.measure_loss + order.generate)

    def report(done: int) -> None:
        progress.report(Progress(stage=TrainerStage.SCORING, step=min(done, steps), steps=steps))

    result = EvaluateResult(
        mean_loss=mean_token_loss(loaded, examples, order.training, report) if order.measure_loss else None,
        num_label_tokens=sum(example.num_label_tokens for example in examples),
        num_examples=len(examples),
        num_passages=sum(len(sample.passages) for sample in samples),
    )
    if order.generate:
        before = len(examples) if order.measure_loss else 0
        result = _with_entities(result, loaded, samples, order, partial(_report_from, report, before))
    return replace(result, seconds=time.monotonic() - started)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sample:
    """The passages of one file that are scored, and what is asked about them; ``file`` is its place in the order."""

    file: int
    passages: Sequence[Passage]
    question: Question


def _sample(
    order: EvaluateOrder, file: int, passages: Sequence[Passage], share: int, shots: Sequence[Passage]
) -> _Sample:
    question = Question.about(passages, order.task)
    candidates = [example for passage in shots for example in training_examples(passage)]
    chosen = choose_shots(candidates, order.shots, question.entity_types, order.seed)
    taken = sample_in_order(passages, share, order.seed)
    return _Sample(file=file, passages=taken, question=replace(question, shots=chosen))


def _with_entities(
    result: EvaluateResult,
    loaded: LoadedModel,
    samples: Sequence[_Sample],
    order: EvaluateOrder,
    report: Callable[[int], None],
) -> EvaluateResult:
    scored: list[EntityScores] = []
    documents: list[DocumentCounts] = []
    malformed = before = 0
    for sample in samples:
        texts = [passage.text for passage in sample.passages]
        answers = find_entities(loaded, sample.question, texts, partial(_report_from, report, before))
        of_file = score_documents(sample.passages, answers.entities, sample.question.entity_types).values()
        scored.extend(of_file)
        documents.extend(DocumentCounts(file=sample.file, strict=one.strict, lenient=one.lenient) for one in of_file)
        malformed += answers.malformed
        before += answers.sentences
    scores = add_scores(scored)
    return replace(
        result,
        strict=scores.strict,
        lenient=scores.lenient,
        strict_agnostic=scores.strict_agnostic,
        lenient_agnostic=scores.lenient_agnostic,
        strict_interval=bootstrap_f1([document.strict for document in scored], order.seed),
        per_type=scores.per_type,
        documents=tuple(documents) if order.tell_documents else (),
        malformed_answers=malformed,
    )


def _report_from(report: Callable[[int], None], before: int, done: int) -> None:
    report(before + done)

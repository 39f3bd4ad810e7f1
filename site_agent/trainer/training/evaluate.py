"""An EVALUATE order: token loss and entity F1 of one adapter, or of the bare base model, on annotated passages."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from site_agent.orders import EvaluateOrder, EvaluateResult, Progress, TrainerStage
from site_agent.trainer.choices import choose_shots, sample_in_order
from site_agent.trainer.extraction.examples import Example, training_examples
from site_agent.trainer.extraction.passage_files import read_passages
from site_agent.trainer.extraction.scoring import add_scores, score_documents
from site_agent.trainer.order_files import ProgressFile
from site_agent.trainer.training.adapter_files import read_adapter
from site_agent.trainer.training.answering import find_entities
from site_agent.trainer.training.base_model import choose_device, load_base_model
from site_agent.trainer.training.evaluation import mean_token_loss
from site_agent.trainer.training.examples import Question, tokenized_examples
from site_agent.trainer.training.lora import with_adapter


def evaluate(order: EvaluateOrder, base_model: Path, adapter: Path, progress: ProgressFile) -> EvaluateResult:
    """Score the adapter in the file ``adapter``, if there is one, as the order says."""
    started = time.monotonic()
    passages = read_passages([Path(name) for name in order.data_files])
    question = Question.about(passages, order.task)
    question = replace(question, shots=_shots(order, question))
    chosen = sample_in_order(passages, order.max_passages, order.seed)
    loaded = load_base_model(base_model, choose_device(order.base_model.device), order.training.quantization)
    if adapter.exists():
        loaded = with_adapter(loaded, order.lora, read_adapter(adapter))
    examples = tokenized_examples(loaded.tokenizer, question, chosen, order.training.loss_on)
    steps = len(examples) * (2 if order.generate else 1)

    def report(done: int) -> None:
        progress.report(Progress(stage=TrainerStage.SCORING, step=done, steps=steps))

    loss = mean_token_loss(loaded, examples, order.training, report)
    result = EvaluateResult(
        mean_loss=loss,
        num_label_tokens=sum(example.num_label_tokens for example in examples),
        num_examples=len(examples),
        num_passages=len(chosen),
    )
    if order.generate:
        texts = [passage.text for passage in chosen]
        answers = find_entities(loaded, question, texts, lambda done: report(len(examples) + done))
        scores = add_scores(score_documents(chosen, answers.entities, question.entity_types).values())
        result = replace(
            result,
            strict=scores.strict,
            lenient=scores.lenient,
            strict_agnostic=scores.strict_agnostic,
            lenient_agnostic=scores.lenient_agnostic,
            per_type=scores.per_type,
            malformed_answers=answers.malformed,
        )
    return replace(result, seconds=time.monotonic() - started)


def _shots(order: EvaluateOrder, question: Question) -> tuple[Example, ...]:
    if not order.shots:
        return ()
    passages = read_passages([Path(name) for name in order.shot_files])
    candidates = [example for passage in passages for example in training_examples(passage)]
    return choose_shots(candidates, order.shots, question.entity_types, order.seed)

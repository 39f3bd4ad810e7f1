"""Orders of a run of several tasks: what a site trains, what is scored apart, and a test set that stays one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from common.adapter import FactorSet
from common.terms import LoraTerms, PromptForm, Task, TaskTerms, TrainingTerms
from site_agent.orders import (
    ADAPTER_FILE,
    FAILURE,
    FAILURE_FILE,
    ORDER,
    ORDER_FILE,
    RESULT,
    RESULT_FILE,
    UPDATE_FILE,
    BaseModelSource,
    EvaluateOrder,
    EvaluateResult,
    FailureReason,
    InitialiseOrder,
    Order,
    Result,
    TrainOrder,
    TrainResult,
)
from site_agent.trainer.base_model_files import describe_base_model
from site_agent.trainer.extraction.passage_files import read_passages
from site_agent.trainer.extraction.set_digest import set_digest
from site_agent.trainer.runner import run_order
from tests.tiny_model import TINY_TARGET_MODULES, make_tiny_model, write_passages, write_related_passages

pytestmark = pytest.mark.slow

LORA = LoraTerms(lora_rank=4, lora_alpha=8, target_modules=TINY_TARGET_MODULES)
TASK = TaskTerms(entity_types=("drug", "problem"), max_new_tokens=16, relation_types=("adverse_effect", "hasAttr"))
TRAINING = TrainingTerms(learning_rate=1e-2)
HEADS_A_PASSAGE = 1  # the drug; of its problems no role is annotated


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModelSource:
    folder = make_tiny_model(tmp_path_factory.mktemp("tiny"))
    return BaseModelSource(location=str(folder), expected=describe_base_model(folder, "tiny"), device="cpu", threads=1)


@pytest.fixture(scope="module")
def first(base: BaseModelSource, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("first")
    perform(folder, InitialiseOrder(base_model=base, lora=LORA, seed=1, wire_dtype="bf16"))
    return folder / UPDATE_FILE


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a file with both tasks and one with entities alone."""
    folder = tmp_path_factory.mktemp("notes")
    write_related_passages(folder / "both.jsonl", 6)
    write_passages(folder / "entities.jsonl", 4)
    return folder


def train(base: BaseModelSource, *files: Path) -> TrainOrder:
    return TrainOrder(
        base_model=base,
        lora=LORA,
        task=TASK,
        training=TRAINING,
        data_files=tuple(map(str, files)),
        trained=FactorSet.A_AND_B,
        uploaded=FactorSet.A_AND_B,
        round_number=1,
        seed=1,
        wire_dtype="bf16",
    )


def evaluate(base: BaseModelSource, *files: Path) -> EvaluateOrder:
    return EvaluateOrder(base_model=base, lora=LORA, task=TASK, training=TRAINING, data_files=tuple(map(str, files)))


def perform(folder: Path, order: Order, adapter: Path | None = None) -> Result:
    folder.mkdir(exist_ok=True)
    (folder / ORDER_FILE).write_bytes(ORDER.dump_json(order))
    if adapter is not None:
        (folder / ADAPTER_FILE).write_bytes(adapter.read_bytes())
    assert run_order(folder) == 0, (folder / FAILURE_FILE).read_text()
    return RESULT.validate_json((folder / RESULT_FILE).read_bytes())


def why_not(
    folder: Path, order: Order, adapter: Path | None = None, reason: FailureReason = FailureReason.NOTES_INVALID
) -> str:
    """The detail of the failure, which is that the notes are not what is needed."""
    folder.mkdir(exist_ok=True)
    (folder / ORDER_FILE).write_bytes(ORDER.dump_json(order))
    if adapter is not None:
        (folder / ADAPTER_FILE).write_bytes(adapter.read_bytes())
    assert run_order(folder) == 1
    failure = FAILURE.validate_json((folder / FAILURE_FILE).read_bytes())
    assert failure.reason is reason
    return failure.detail


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [
        (tuple(Task), {Task.ENTITIES: 12 + 8, Task.RELATIONS: 6 * HEADS_A_PASSAGE}),
        ((Task.ENTITIES,), {Task.ENTITIES: 12 + 8}),
        ((Task.RELATIONS,), {Task.RELATIONS: 6 * HEADS_A_PASSAGE}),
    ],
)
def test_a_site_trains_the_tasks_that_it_wants_and_its_files_annotate_and_counts_each(
    base: BaseModelSource, first: Path, notes: Path, tmp_path: Path, tasks: tuple[Task, ...], expected: dict[Task, int]
) -> None:
    order = replace(train(base, notes / "both.jsonl", notes / "entities.jsonl"), tasks=tasks)
    result = perform(tmp_path / "order", order, first)
    assert isinstance(result, TrainResult)
    assert {one.task: one.num_examples for one in result.tasks} == expected
    assert result.num_examples == sum(expected.values())
    assert result.num_label_tokens == sum(one.num_label_tokens for one in result.tasks)
    assert all(one.num_label_tokens > one.num_examples for one in result.tasks)


def test_a_site_whose_files_have_nothing_of_the_runs_tasks_says_so(
    base: BaseModelSource, first: Path, notes: Path, tmp_path: Path
) -> None:
    order = replace(train(base, notes / "entities.jsonl"), tasks=(Task.RELATIONS,))
    detail = why_not(tmp_path / "unannotated", order, first)
    assert detail == ("notes: expected entities of drug, problem with relations adverse_effect, hasAttr, got none")
    order = replace(train(base, notes / "both.jsonl"), task=TaskTerms(), tasks=(Task.RELATIONS,))
    assert why_not(tmp_path / "unwanted", order, first) == (
        "notes: expected one of the run's tasks (entities) to be trained here, got none"
    )


def without_relations(source: Path, lines: slice, target: Path) -> Path:
    """The file with nothing related in those lines."""
    records = [json.loads(line) for line in source.read_text().splitlines()]
    for record in records[lines]:
        record["relations"] = []
    target.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return target


@pytest.mark.parametrize(("share", "heads"), [(0.0, 6), (0.25, 2), (0.5, 4)])
def test_of_each_task_a_share_of_examples_at_most_has_nothing_to_find(
    base: BaseModelSource, first: Path, notes: Path, tmp_path: Path, share: float, heads: int
) -> None:
    file = without_relations(notes / "both.jsonl", slice(2, None), tmp_path / "rare.jsonl")
    order = replace(train(base, file), training=replace(TRAINING, max_empty_share=share))
    result = perform(tmp_path / "order", order, first)
    assert isinstance(result, TrainResult)
    assert {one.task: one.num_examples for one in result.tasks} == {Task.ENTITIES: 12, Task.RELATIONS: heads}


def test_notes_of_which_only_those_with_nothing_to_find_are_short_enough_are_too_few(
    base: BaseModelSource, first: Path, tmp_path: Path
) -> None:
    text = f"Aspirin {'again ' * 200}today. Nothing else."
    entity = {"id": "T1", "type": "drug", "start": 0, "end": 7, "text": "Aspirin"}
    record = {"id": "n1", "text": text, "entities": [entity], "relations": [], "meta": {"doc": "n1"}}
    (tmp_path / "long.jsonl").write_text(f"{json.dumps(record)}\n")
    training = replace(TRAINING, max_empty_share=0.5, max_length=1000)
    order = replace(train(base, tmp_path / "long.jsonl"), training=training)
    assert why_not(tmp_path / "order", order, first, FailureReason.NOTES_TOO_FEW) == (
        "notes: expected an example with something to find (training.max_empty_share), got 2 without"
    )


@pytest.mark.parametrize("form", PromptForm)
def test_relations_are_learnt_and_scored_apart_from_entities(
    base: BaseModelSource, first: Path, notes: Path, tmp_path: Path, form: PromptForm
) -> None:
    task = replace(TASK, prompt_form=form, max_new_tokens=80)
    training = replace(TRAINING, local_epochs=4)
    order = replace(train(base, notes / "both.jsonl"), task=task, training=training, tasks=(Task.RELATIONS,))
    perform(tmp_path / "train", order, first)
    scoring = replace(evaluate(base, notes / "both.jsonl", notes / "entities.jsonl"), task=task, max_passages=4)
    bare = perform(tmp_path / "bare", scoring)
    taught = perform(tmp_path / "taught", scoring, tmp_path / "train" / UPDATE_FILE)
    assert isinstance(bare, EvaluateResult) and isinstance(taught, EvaluateResult)
    entities, relations = taught.tasks
    assert (entities.task, relations.task) == (Task.ENTITIES, Task.RELATIONS)
    assert (entities.num_examples, relations.num_examples) == (8, 2)
    assert relations.strict is not None and relations.strict.gold == 4
    assert [one.entity_type for one in relations.per_type] == ["adverse_effect", "dosage"]
    assert (taught.strict, taught.per_type) == (entities.strict, entities.per_type)
    losses = [(one.tasks[1].mean_loss, one.mean_loss) for one in (bare, taught)]
    assert losses[1][0] is not None and losses[0][0] is not None and losses[1][0] < 0.7 * losses[0][0]
    total = sum(one.num_label_tokens * (one.mean_loss or 0) for one in taught.tasks) / taught.num_label_tokens
    assert taught.mean_loss == pytest.approx(total)


def test_a_sample_is_asked_for_what_its_whole_corpus_annotates(
    base: BaseModelSource, notes: Path, tmp_path: Path
) -> None:
    sample = without_relations(notes / "both.jsonl", slice(0, None), tmp_path / "sample.jsonl")
    order = replace(evaluate(base, sample), tell_documents=True)
    alone = perform(tmp_path / "alone", order)
    asked = perform(tmp_path / "asked", replace(order, asked_files=(str(notes / "both.jsonl"),)))
    assert isinstance(alone, EvaluateResult) and isinstance(asked, EvaluateResult)
    assert [one.task for one in alone.tasks] == [Task.ENTITIES]
    assert [one.task for one in asked.tasks] == [Task.ENTITIES, Task.RELATIONS]
    relations = asked.tasks[1]
    assert relations.num_examples == 6 and {one.strict.gold for one in relations.documents} == {0}


def test_a_validation_set_of_entities_alone_gives_scores_of_entities_alone(
    base: BaseModelSource, notes: Path, tmp_path: Path
) -> None:
    order = replace(evaluate(base, notes / "entities.jsonl"), generate=False)
    result = perform(tmp_path / "order", order)
    assert isinstance(result, EvaluateResult)
    assert [one.task for one in result.tasks] == [Task.ENTITIES]
    assert result.mean_loss == result.tasks[0].mean_loss


# The validation set is never the test set.


def test_a_validation_set_that_shares_a_text_with_the_test_set_is_refused_however_that_is_set(
    base: BaseModelSource, notes: Path, tmp_path: Path
) -> None:
    shared = (notes / "both.jsonl").read_text().splitlines()[2]
    other = write_passages(tmp_path / "test.jsonl", 2, word="ibuprofen")
    other.write_text(other.read_text() + shared.replace('"r2"', '"elsewhere"').replace("gave a", "gave A") + "\n")
    order = replace(evaluate(base, notes / "both.jsonl"), test_files=(str(other),))
    assert why_not(tmp_path / "order", order) == "validation set: expected no text of the test set, got 1 of 6"


def test_a_run_that_names_a_test_set_is_not_scored_by_an_evaluator_that_was_not_given_it(
    base: BaseModelSource, notes: Path, tmp_path: Path
) -> None:
    test = write_passages(tmp_path / "test.jsonl", 2, word="ibuprofen")
    digest = set_digest(read_passages([test]))
    order = replace(evaluate(base, notes / "both.jsonl"), test_digest=digest, generate=False)
    assert why_not(tmp_path / "none", order) == (
        f"test set: expected {digest} as in the terms, got no test set (data.test)"
    )
    another = replace(order, test_files=(str(notes / "entities.jsonl"),))
    assert why_not(tmp_path / "another", another).startswith(
        f"test set: expected {digest} as in the terms, got sha256:"
    )
    result = perform(tmp_path / "told", replace(order, test_files=(str(test),)))
    assert isinstance(result, EvaluateResult)
    assert result.data_digest == set_digest(read_passages([notes / "both.jsonl"]))

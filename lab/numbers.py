"""Every number of an experiment as a row of one CSV file, for whoever wants to compute something else from them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from common.files import write_whole
from common.terms import Task
from lab.comparisons import differences, main_table
from lab.experiment import Experiment
from lab.findings import HEADLINE_RULES, Findings, Scored, Trained
from lab.statistics import estimate
from site_agent.orders import TypeCounts
from site_agent.trainer.extraction.scoring import f1, macro_f1

COLUMNS = (
    "arm", "setting", "task", "seed", "site", "trained_on", "model_of", "round", "examples", "metric", "value", "low",
    "high",
)  # fmt: skip
Row = dict[str, object]


def write_numbers(path: Path, experiment: Experiment, findings: Findings) -> None:
    """Write them; the file appears whole."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows_of(experiment, findings):
        writer.writerow({key: f"{value:.6g}" if isinstance(value, float) else value for key, value in row.items()})
    write_whole(path, text.getvalue().encode())


def rows_of(experiment: Experiment, findings: Findings) -> Iterator[Row]:
    """Scores of each model on each test set, training by site and round, means and differences with intervals."""
    for scored in findings.scored:
        yield from _scored(scored)
    for trained in findings.trained:
        yield from _trained(trained)
    for task in findings.tasks():
        yield from _compared(task, experiment, findings.of_task(task))


def _compared(task: Task, experiment: Experiment, findings: Findings) -> Iterator[Row]:
    for cell in main_table(experiment, findings):
        yield {
            "arm": cell.arm, "setting": cell.column, "task": task, "metric": f"mean_{cell.rule}_f1",
            "value": cell.estimate.value, "low": cell.estimate.low, "high": cell.estimate.high,
        }  # fmt: skip
    for one in differences(experiment, findings):
        yield {
            "arm": f"{one.left} - {one.right}", "setting": one.column, "task": task,
            "metric": f"difference_{one.rule}_f1",
            "value": one.estimate.value, "low": one.estimate.low, "high": one.estimate.high,
        }  # fmt: skip


def _scored(row: Scored) -> Iterator[Row]:
    same: Row = {
        "arm": row.arm, "setting": row.setting, "task": row.task, "seed": row.seed, "site": row.test_set,
        "trained_on": row.trained_on, "model_of": row.site, "round": row.round_number or "",
        "examples": row.examples or "",
    }  # fmt: skip
    for rule in row.rules:
        part = row.part(rule)
        found = estimate([part])
        yield {**same, "metric": f"{rule}_f1", "value": found.value, "low": found.low, "high": found.high}
        matched, predicted, gold = part.counts.sum(axis=0).tolist()
        counts = {"true_positives": matched, "predicted": predicted, "gold": gold, "documents": len(part.counts)}
        for name, count in counts.items():
            yield {**same, "metric": f"{rule}_{name}", "value": count}
    if row.per_type:
        yield from _by_type(row.per_type, same)
        for name in ("answers", "malformed_answers"):
            yield {**same, "metric": name, "value": getattr(row, name)}


def _by_type(counts: Sequence[TypeCounts], same: Row) -> Iterator[Row]:
    for rule in HEADLINE_RULES:
        by_type = {one.entity_type: getattr(one, rule) for one in counts}
        yield {**same, "metric": f"{rule}_macro_f1", "value": macro_f1(by_type.values())}
        for name, one in by_type.items():
            yield {**same, "metric": f"{rule}_f1_of_{name}", "value": f1(one)}


def _trained(row: Trained) -> Iterator[Row]:
    same: Row = {
        "arm": row.arm, "setting": "training", "seed": row.seed, "site": row.site,
        "round": row.round_number,
    }  # fmt: skip
    metrics = ("mean_loss", "num_examples", "num_label_tokens", "steps", "seconds", "weight", "validation_loss",
               "upload_bytes", "download_bytes", "lora_rank")  # fmt: skip
    for metric in metrics:
        value = getattr(row, metric)
        if value is not None:
            yield {**same, "metric": metric, "value": value}

"""What a demo found out: ``report.json``, and the same for a terminal. Computes no score itself."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from coordinator import cli_text
from demo.scoring import ScoreKey
from fedmedlora.v1 import admin_pb2
from site_agent.orders import EvaluateResult
from site_agent.trainer.extraction.scoring import f1

# Models that are the same for every site, in the order of the table; the three-shot one only when asked for.
SHARED_MODELS = {"zero_shot": "zero-shot", "three_shot": "3-shot", "federated": "federation"}


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModelSize:
    """The base model, as it would travel if it did."""

    parameters: int
    bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoFindings:
    """Everything that the report is made of."""

    run: admin_pb2.RunReport
    base_model: BaseModelSize
    scores: Mapping[ScoreKey, EvaluateResult]
    sites: Sequence[str]
    adapter_folder: Path
    adapter_parameters: int
    base_model_location: str
    sample_note: Path


def report_document(found: DemoFindings) -> dict[str, object]:
    """The content of ``report.json``."""
    models = [model for model in SHARED_MODELS if ScoreKey(model=model, site=found.sites[0]) in found.scores]
    scores = {model: {site: _scores(found, model, site) for site in found.sites} for model in models}
    scores["single_site"] = {site: _scores(found, f"single_site:{site}", site) for site in found.sites}
    cross = {
        trained: {site: _scores(found, f"single_site:{trained}", site) for site in found.sites if site != trained}
        for trained in found.sites
    }
    return {
        "base_model": {"parameters": found.base_model.parameters, "bytes": found.base_model.bytes},
        "rounds": [_round(past) for past in found.run.rounds],
        "scores": scores,
        "single_site_on_other_sites": cross,
        "means": means(found),
        "adapter": {
            "path": str(found.adapter_folder),
            "digest": found.run.served_adapter.digest,
            "parameters": found.adapter_parameters,
        },
    }


def means(found: DemoFindings) -> dict[str, float]:
    """Mean strict F1 over sites of the federated model, and of single-site models on the other sites' notes."""
    federated = [_scores(found, "federated", site)["strict_f1"] for site in found.sites]
    others = [
        _scores(found, f"single_site:{trained}", site)["strict_f1"]
        for trained in found.sites
        for site in found.sites
        if site != trained
    ]
    return {
        "federated_strict_f1": sum(federated) / len(federated),
        "single_site_on_other_sites_strict_f1": sum(others) / len(others) if others else 0.0,
    }


def _scores(found: DemoFindings, model: str, site: str) -> dict[str, float]:
    result = found.scores[ScoreKey(model=model, site=site)]
    assert result.strict is not None and result.lenient is not None, "a scored model has counts"
    return {"strict_f1": f1(result.strict), "lenient_f1": f1(result.lenient)}


def _round(past: admin_pb2.RoundReport) -> dict[str, object]:
    return {
        "round": past.round_number,
        "phase": cli_text.phase(past.phase),
        "seconds": past.duration.ToTimedelta().total_seconds(),
        "roster": [
            {
                "site": entry.site,
                "outcome": cli_text.outcome(entry.outcome),
                "reason": cli_text.reason(entry.reason) or None,
                "num_examples": entry.num_examples,
                "num_label_tokens": entry.num_label_tokens,
                "weight": entry.weight,
                "upload_bytes": entry.upload_bytes,
                "download_bytes": entry.download_bytes,
            }
            for entry in past.roster
        ],
    }


def write_report(path: Path, found: DemoFindings) -> None:
    """Write ``report.json``."""
    path.write_text(json.dumps(report_document(found), indent=2) + "\n", encoding="utf-8")


def print_report(console: Console, found: DemoFindings, report: Path) -> None:
    """Say what happened: rounds, bytes, scores, and what to do with the adapter."""
    for past in found.run.rounds:
        console.print(cli_text.round_table(past))
        console.print(f"  candidate: {cli_text.scores(past)}\n")
    console.print(_bytes_line(found))
    console.print(_score_table(found))
    mean = means(found)
    console.print(
        f"mean strict F1: federated {mean['federated_strict_f1']:.3f}; single-site models on the other sites' notes "
        f"{mean['single_site_on_other_sites_strict_f1']:.3f}\n"
    )
    console.print(f"adapter (a plain PEFT folder): {found.adapter_folder}", soft_wrap=True)
    command = f"fedmed-site extract --base-model {found.base_model_location} --adapter {found.adapter_folder}"
    console.print(f"use it on a note:\n  {command} {found.sample_note}", soft_wrap=True)
    console.print(f"report: {report}", soft_wrap=True)


def _bytes_line(found: DemoFindings) -> str:
    entries = [entry for past in found.run.rounds for entry in past.roster]
    moved = sum(entry.upload_bytes + entry.download_bytes for entry in entries)
    full = 2 * found.base_model.bytes * sum(bool(entry.upload_bytes) for entry in entries)
    share = moved / full if full else 0.0
    return (
        f"travelled in all rounds, both ways: {moved / 1e6:.1f} MB; the full model would have been {full / 1e6:,.0f} MB"
        f" ({share:.1%} of it)\n"
    )


def _score_table(found: DemoFindings) -> Table:
    table = Table("site", title="entity F1 on each site's held-out notes, strict / lenient")
    models = [model for model in SHARED_MODELS if ScoreKey(model=model, site=found.sites[0]) in found.scores]
    for column in (*(SHARED_MODELS[model] for model in models), "that site alone"):
        table.add_column(column, justify="right")
    for site in found.sites:
        cells = [_scores(found, model, site) for model in (*models, f"single_site:{site}")]
        table.add_row(site, *(f"{cell['strict_f1']:.3f} / {cell['lenient_f1']:.3f}" for cell in cells))
    return table

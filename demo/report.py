"""Tells what a demo found out: ``report.json``, and the same for a terminal. Computes no score itself."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from coordinator import cli_text
from demo.findings import (
    FEDERATED,
    THREE_SHOT,
    ZERO_SHOT,
    DemoFindings,
    details_of,
    margins,
    means,
    scored_notes,
    scores_of,
    single_site,
    travelled,
)
from fedmedlora.v1 import admin_pb2

_TITLES = {ZERO_SHOT: "zero-shot", THREE_SHOT: "3-shot", FEDERATED: "federation"}


def report_document(found: DemoFindings) -> dict[str, object]:
    """The content of ``report.json``."""
    sites = found.sites
    scores = {model: {site: scores_of(found, model, site) for site in sites} for model in found.shared_models}
    scores["single_site"] = {site: scores_of(found, single_site(site), site) for site in sites}
    cross = {
        trained: {site: scores_of(found, single_site(trained), site) for site in sites if site != trained}
        for trained in sites
    }
    details: dict[str, dict[str, object]] = {}
    for key, result in found.scores.items():
        details.setdefault(key.model, {})[key.site] = details_of(result)
    return {
        "base_model": {"parameters": found.base_model.parameters, "bytes": found.base_model.bytes},
        "rounds": [_round(past) for past in found.run.rounds],
        "travelled": travelled(found),
        "scores": scores,
        "single_site_on_other_sites": cross,
        "scored_notes": {site: scored_notes(found, site) for site in sites},
        "margins": {site: margins(found, site) for site in sites},
        "means": means(found),
        "details": details,
        "adapter": {
            "path": str(found.adapter_folder),
            "digest": found.run.served_adapter.digest,
            "parameters": found.adapter_parameters,
        },
        "release": {
            "path": str(found.release.folder),
            "verified_by": found.release.command,
            "said": list(found.release.said),
        },
    }


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
        console.print(f"  candidate: {cli_text.scores(past) or 'not scored'}\n")
    console.print(_bytes_line(found), soft_wrap=True)
    console.print(_score_table(found))
    console.print(_margin_table(found))
    mean = means(found)
    console.print(
        f"mean strict F1 over sites: federation {_number(mean['federated_strict_f1'])}; single-site models on the "
        f"other sites' notes {_number(mean['single_site_on_other_sites_strict_f1'])}\n",
        soft_wrap=True,
    )
    command = ["fedmed-site", "extract", "--base-model", found.base_model_location]
    command += ["--adapter", str(found.adapter_folder), str(found.sample_note)]
    for line in (
        f"adapter (a plain PEFT folder): {found.adapter_folder}",
        f"use it on a note:\n  {shlex.join(command)}",
        f"release, for whoever is to trust it: {found.release.folder}",
        f"checked from its files and the root's certificate alone:\n  {found.release.command}",
        *(f"    {line}" for line in found.release.said),
        f"report: {report}",
    ):
        console.print(line, soft_wrap=True, markup=False, emoji=False)


def _bytes_line(found: DemoFindings) -> str:
    moved = travelled(found)
    trips = moved["sites_and_rounds"] or 1
    up, down = moved["upload_bytes"], moved["download_bytes"]
    return (
        f"travelled between coordinator and sites: {_megabytes(up + down)}, for each site and round "
        f"{_megabytes(up / trips)} up and {_megabytes(down / trips)} down; the full model "
        f"({_megabytes(found.base_model.bytes)}) each time: {_megabytes(moved['full_model_bytes'])}, so this was "
        f"{moved['share_of_full_model']:.1%} of it\n"
    )


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.2f} MB"


def _score_table(found: DemoFindings) -> Table:
    columns = [_TITLES[model] for model in found.shared_models]
    table = _table("entity F1 on each site's held-out notes, strict / lenient", [*columns, "that site alone"])
    for site in found.sites:
        cells = [scores_of(found, model, site) for model in (*found.shared_models, single_site(site))]
        table.add_row(site, *(f"{cell['strict_f1']:.3f} / {cell['lenient_f1']:.3f}" for cell in cells))
    return table


def _margin_table(found: DemoFindings) -> Table:
    """How sure the federation's strict F1 is, and how far it is from the others."""
    asked = {"federated_minus_zero_shot": "- zero-shot", "federated_over_single_site": "/ that site alone"}
    if THREE_SHOT in found.shared_models:
        asked["federated_minus_three_shot"] = "- 3-shot"
    columns = ["passages / sentences / entities", "95 % interval", *asked.values()]
    table = _table("the federation's strict F1: on how much, how sure, against the others", columns)
    for site in found.sites:
        interval = found.result(FEDERATED, site).strict_interval
        sure = f"{interval.low:.3f} - {interval.high:.3f}" if interval else ""
        margin = margins(found, site)
        counts = " / ".join(map(str, scored_notes(found, site).values()))
        table.add_row(site, counts, sure, *(_number(margin[name]) for name in asked))
    return table


def _table(title: str, columns: list[str]) -> Table:
    """A table with a row for each site, narrow enough for most terminals."""
    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("site", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

"""What a demo says that it found: the form of its report, the margins, the bytes."""

from __future__ import annotations

import io
import json
import re
import shlex
from pathlib import Path

import pytest
from rich.console import Console

from demo.findings import means, travelled
from demo.report import print_report, report_document
from fedmedlora.v1 import admin_pb2
from tests.fakes.demo_values import make_findings, make_run

MODELS = {"zero_shot": (0, 1), "federated": (6, 8), "single_site:anna": (5, 2), "single_site:berta": (0, 4)}
TWO_ROUNDS = make_run((admin_pb2.PHASE_COMMITTED, admin_pb2.PHASE_COMMITTED))


def test_scores_are_strict_and_lenient_f1_of_each_model_on_each_site_and_no_more() -> None:
    document = json.loads(json.dumps(report_document(make_findings(MODELS, TWO_ROUNDS))))

    assert document["scores"] == {
        "zero_shot": {"anna": {"strict_f1": 0.0, "lenient_f1": 0.0}, "berta": {"strict_f1": 0.1, "lenient_f1": 0.1}},
        "single_site": {"anna": {"strict_f1": 0.5, "lenient_f1": 0.5}, "berta": {"strict_f1": 0.4, "lenient_f1": 0.4}},
        "federated": {"anna": {"strict_f1": 0.6, "lenient_f1": 0.6}, "berta": {"strict_f1": 0.8, "lenient_f1": 0.8}},
    }


def test_details_have_every_f1_of_the_paper_and_macro_leaves_out_types_without_gold() -> None:
    found = make_findings(MODELS, TWO_ROUNDS)
    details = json.loads(json.dumps(report_document(found)))["details"]["federated"]["anna"]

    assert details["strict_type_agnostic"] == {"f1": 0.6, "true_positives": 6, "predicted": 10, "gold": 10}
    assert details["per_type"]["drug"]["lenient"]["f1"] == 0.6
    assert (details["strict_macro_f1"], details["strict_f1_interval_95"]) == (0.6, [0.1, 0.9])


def test_margins_compare_the_federation_with_every_model_that_was_scored() -> None:
    margins = report_document(make_findings({**MODELS, "three_shot": (3, 9)}, TWO_ROUNDS))["margins"]

    assert margins == {
        "anna": pytest.approx(
            {
                "federated_minus_zero_shot": 0.6,
                "federated_minus_three_shot": 0.3,
                "federated_over_single_site": 1.2,
            }
        ),
        "berta": pytest.approx(
            {
                "federated_minus_zero_shot": 0.7,
                "federated_minus_three_shot": -0.1,
                "federated_over_single_site": 2.0,
            }
        ),
    }


def test_a_single_site_model_that_finds_nothing_has_no_ratio() -> None:
    found = make_findings({**MODELS, "single_site:anna": (0, 0)}, TWO_ROUNDS)
    margins = json.loads(json.dumps(report_document(found)))["margins"]

    assert margins["anna"]["federated_over_single_site"] is None
    assert margins["anna"]["federated_minus_three_shot"] is None


def test_means_are_over_sites_and_single_site_models_count_on_other_sites_alone() -> None:
    found = make_findings(MODELS, TWO_ROUNDS)

    assert means(found) == pytest.approx({"federated_strict_f1": 0.7, "single_site_on_other_sites_strict_f1": 0.1})


def test_what_travelled_is_set_against_the_full_model_for_each_site_and_round() -> None:
    assert travelled(make_findings(MODELS, TWO_ROUNDS)) == {
        "sites_and_rounds": 4,
        "upload_bytes": 120,
        "download_bytes": 160,
        "full_model_bytes": 8000,
        "share_of_full_model": 280 / 8000,
    }


def test_a_terminal_gets_the_numbers_behind_each_judgement_and_a_command_that_can_be_typed() -> None:
    output = io.StringIO()
    print_report(Console(file=output, width=80), make_findings(MODELS, TWO_ROUNDS), Path("report.json"))
    lines = output.getvalue().splitlines()

    row = next(line for line in reversed(lines) if line.strip().startswith("anna"))
    assert " ".join(row.split()) == "anna 2 / 8 / 10 0.100 - 0.900 0.600 1.200"
    command = next(line for line in lines if line.strip().startswith("fedmed-site extract"))
    assert shlex.split(command)[-3:] == ["--adapter", "/out of/adapter", "/out of/note.txt"]


def test_the_data_model_tells_what_each_part_of_the_report_holds() -> None:
    page = (Path(__file__).parents[2] / "docs/data-model.md").read_text(encoding="utf-8")
    told = set(re.findall(r"`(\w+)`", page.split("## The demo's folder")[1].split("\n## ")[0]))

    assert set(report_document(make_findings(MODELS, TWO_ROUNDS))) - told == set()

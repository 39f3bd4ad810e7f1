"""Tables, numbers and figures of drawn findings: their structure, and that each number is where it belongs."""

from __future__ import annotations

import csv
import random
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.ids import digest_of
from lab.comparisons import (
    EXTERNAL,
    IN_DOMAIN,
    OTHER_NOTES,
    OWN_NOTES,
    POOLED,
    differences,
    main_table,
    new_site_curves,
    of_site,
)
from lab.experiment import Experiment
from lab.figures import draw_all
from lab.findings import EVERYBODY, Findings, Kept, Played, Rule, Scored, Setting, others, own, parts
from lab.latex import latex
from lab.numbers import COLUMNS, write_numbers
from lab.reports import found_in, write_report
from lab.statistics import f1_of, value_of
from lab.tables import report
from tests.fakes.lab_findings import ABROAD, ARMS, SITES, drawn_documents, kept_of, whole_experiment, whole_findings

EXPERIMENT, FINDINGS = whole_experiment(), whole_findings()
NOTHING = Findings()


def columns_by_arm(experiment: Experiment = EXPERIMENT) -> dict[str, list[str]]:
    columns: dict[str, list[str]] = {}
    for cell in main_table(experiment, FINDINGS):
        if cell.rule is Rule.STRICT:
            columns.setdefault(cell.arm, []).append(cell.column)
    return columns


def test_the_main_table_has_a_number_for_every_arm_and_setting_and_more_for_single_sites() -> None:
    columns = columns_by_arm()

    assert columns.keys() == {*(arm["name"] for arm in ARMS), *(of_site("Single site", site) for site in SITES)}
    for name, told in columns.items():
        expected = [IN_DOMAIN, OWN_NOTES, OTHER_NOTES, EXTERNAL] if "Single site" in name else [
            IN_DOMAIN, POOLED, EXTERNAL,
        ]  # fmt: skip
        assert told == expected


def test_the_mean_of_single_sites_is_that_of_each_of_them() -> None:
    cells = {(cell.arm, cell.column): cell.estimate.value for cell in main_table(EXPERIMENT, FINDINGS)
             if cell.rule is Rule.STRICT}  # fmt: skip

    for column in (OWN_NOTES, OTHER_NOTES, EXTERNAL):
        each = [cells[of_site("Single site", site), column] for site in SITES]
        assert cells["Single site", column] == pytest.approx(sum(each) / len(each))


def test_what_sites_without_a_part_in_an_arm_hold_is_apart_from_what_its_model_was_trained_on() -> None:
    arms = [{**arm, "sites": SITES[:2]} if arm["name"] == "Fed-MedLoRA" else arm for arm in ARMS]
    some = EXPERIMENT.model_validate({**EXPERIMENT.model_dump(), "arms": arms})

    assert columns_by_arm(some)["Fed-MedLoRA"] == [IN_DOMAIN, OWN_NOTES, OTHER_NOTES, POOLED, EXTERNAL]
    assert columns_by_arm(some)["Centralised"] == [IN_DOMAIN, POOLED, EXTERNAL]
    unseen = [row for row in FINDINGS.of("Fed-MedLoRA", Setting.IN_DOMAIN) if row.test_set == SITES[2]]
    (told,) = [cell.estimate.value for cell in main_table(some, FINDINGS)
               if (cell.arm, cell.column, cell.rule) == ("Fed-MedLoRA", OTHER_NOTES, Rule.STRICT)]  # fmt: skip
    assert told == pytest.approx(value_of(list(parts(unseen, Rule.STRICT))))


def test_pooled_scores_add_the_test_sets_of_a_seed_before_f1_is_taken() -> None:
    last = FINDINGS.of("Centralised", Setting.IN_DOMAIN)
    by_seed = [np.concatenate([row.counts(Rule.STRICT) for row in last if row.seed == seed]) for seed in (1, 2)]

    (told,) = [cell for cell in main_table(EXPERIMENT, FINDINGS)
               if (cell.arm, cell.column, cell.rule) == ("Centralised", POOLED, Rule.STRICT)]  # fmt: skip

    assert told.estimate.value == pytest.approx(sum(map(f1_of, by_seed)) / 2)
    assert told.estimate.low < told.estimate.value < told.estimate.high


def test_scores_of_single_rounds_are_not_in_the_main_table() -> None:
    last = [row for row in FINDINGS.scored if row.arm == "Fed-MedLoRA" and not row.round_number]
    inside = [row for row in last if row.setting is Setting.IN_DOMAIN]

    cell = next(c for c in main_table(EXPERIMENT, FINDINGS) if (c.arm, c.column) == ("Fed-MedLoRA", IN_DOMAIN))

    assert cell.estimate.value == pytest.approx(sum(f1_of(row.counts(Rule.STRICT)) for row in inside) / len(inside))
    assert cell.seeds == 2


def test_own_notes_and_other_sites_notes_are_apart() -> None:
    inside = FINDINGS.of("Single site", Setting.IN_DOMAIN)

    assert {(row.trained_on, row.test_set) for row in own(inside)} == {(name, name) for name in SITES}
    assert len(own(inside)) + len(others(inside)) == len(inside)


def test_a_difference_is_over_the_seeds_that_both_arms_have() -> None:
    found = {
        (one.left, one.right, one.column): one for one in differences(EXPERIMENT, FINDINGS) if one.rule == "strict"
    }
    first_seed = [row for row in FINDINGS.of("Fed-MedLoRA", Setting.EXTERNAL) if row.seed == 1]
    other = FINDINGS.of("FFA_LoRA", Setting.EXTERNAL)

    apart = found["FFA_LoRA", "Fed-MedLoRA", EXTERNAL]
    expected = value_of(list(parts(other, Rule.STRICT))) - value_of(list(parts(first_seed, Rule.STRICT)))
    assert apart.seeds == 1
    assert apart.estimate.value == pytest.approx(expected)
    assert found["Fed-MedLoRA", "Zero-shot", EXTERNAL].seeds == 2  # which is the same for every seed
    assert found["Fed-MedLoRA", "Single site", OTHER_NOTES].estimate.is_apart_from_zero
    assert ("Fed-MedLoRA", "Fed-MedLoRA", EXTERNAL) not in found


def test_pairs_that_the_file_names_are_compared_beside_the_others() -> None:
    pair = ("Single site", "Zero-shot")
    named = EXPERIMENT.model_copy(update={"compare": (pair, ("FFA_LoRA", "Fed-MedLoRA"))})

    found, before = differences(named, FINDINGS), differences(EXPERIMENT, FINDINGS)

    added = [one for one in found if one not in before]
    assert {(one.left, one.right) for one in added} == {pair}
    assert len(found) == len(before) + len(added)


def test_a_difference_is_of_one_mix_of_test_sets_where_two_sites_share_a_corpus() -> None:
    """North and south hold one corpus, west another: a model that is as good as each of theirs differs by nothing."""
    chance = random.Random(4)
    documents = {corpus: drawn_documents(chance, quality) for corpus, quality in (("shared", 0.9), ("west", 0.2))}
    rows = [("Single site", trained, test) for trained in ("shared", "shared", "west") for test in documents]
    rows += [("Fed-MedLoRA", EVERYBODY, test) for test in documents]
    scored = [
        Scored(
            arm=arm,
            seed=1,
            trained_on=trained,
            setting=Setting.IN_DOMAIN,
            test_set=test,
            strict=documents[test],
            lenient=documents[test],
        )
        for arm, trained, test in rows
    ]

    findings = Findings(kept=[kept_of(Played(scored=scored))])
    found = [one for one in differences(EXPERIMENT, findings) if one.right == "Single site"]

    assert {one.column for one in found} == {OWN_NOTES, OTHER_NOTES}
    for one in found:
        assert (one.estimate.value, one.estimate.low, one.estimate.high) == pytest.approx((0, 0, 0))


def test_the_curve_of_a_new_site_begins_with_what_the_federation_scores_there() -> None:
    curves = new_site_curves(FINDINGS)

    assert [count for count, _ in curves["nothing"]] == [10, 50]
    assert [count for count, _ in curves["Fed-MedLoRA"]] == [0, 10, 50]
    outside = [row for row in FINDINGS.of("Fed-MedLoRA", Setting.EXTERNAL) if row.seed == 1]  # the curves' only seed
    assert curves["Fed-MedLoRA"][0][1].value == pytest.approx(value_of(list(parts(outside, Rule.STRICT))))


def test_the_report_has_tables_whose_rows_are_as_long_as_their_heads() -> None:
    text = report(EXPERIMENT, FINDINGS)

    rows = [line.count(" |") for line in text.splitlines() if line.startswith("| ")]
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1
    assert len(rows) > 20
    assert "- FFA_LoRA, seed 2: not done yet" in text
    assert "- machine: this one" in text
    assert "- something worth saying" in text


def test_the_hours_of_training_are_told() -> None:
    trained = [replace(FINDINGS.trained[0], seconds=seconds) for seconds in (3600.0, 5400.0)]
    findings = Findings(kept=[kept_of(Played(trained=trained))])
    assert "\n- training took 2.5 h of one trainer; " in report(EXPERIMENT, findings)


def test_what_was_predicted_is_told_and_empty_where_it_was_not_kept() -> None:
    told = report(EXPERIMENT, FINDINGS).split("### What was predicted")[1].split("###")[0]
    rows = {
        row.split(" | ")[0].strip("| "): row.strip("| ").split(" | ") for row in told.splitlines() if row[:1] == "|"
    }
    last = FINDINGS.of("Centralised", Setting.EXTERNAL)
    right, predicted, gold = sum(row.counts(Rule.STRICT).sum(axis=0) for row in last)

    assert rows["Centralised"][3] == f"{predicted / gold:.2f} ({right / predicted:.2f}, {right / gold:.2f})"
    assert rows["Centralised"][5] == "5.0%"
    (agnostic,) = [
        cell.estimate.value
        for cell in main_table(EXPERIMENT, FINDINGS)
        if (cell.arm, cell.column, cell.rule) == ("Centralised", IN_DOMAIN, Rule.STRICT_AGNOSTIC)
    ]
    assert rows["Centralised"][2].startswith(f"{agnostic:.3f} (")
    assert [cell for cell in rows["Zero-shot"] if cell.strip()] == [*rows["Zero-shot"][:2], rows["Zero-shot"][3]]


def test_only_what_travelled_is_in_the_table_of_bytes() -> None:
    bytes_table = report(EXPERIMENT, FINDINGS).split("## Bytes")[1].split("##")[0]

    assert "| Fed-MedLoRA | 5.00 | 5.00 | 1.67% |" in bytes_table
    assert "| FFA_LoRA | 2.50 | 5.00 | 1.25% |" in bytes_table
    assert "Single site" not in bytes_table and "Centralised" not in bytes_table


def test_a_report_of_nothing_says_so_and_has_no_numbers() -> None:
    text = report(EXPERIMENT, NOTHING)

    assert re.search(r"\d\.\d{3}", text) is None


def test_the_latex_table_has_as_many_cells_in_every_row_and_escapes_names() -> None:
    lines = [line for line in latex(EXPERIMENT, FINDINGS).splitlines() if line.endswith("\\\\") and "multi" not in line]

    tables = latex(EXPERIMENT, FINDINGS).split("\\begin{tabular}")[1:]
    rows = [[line.count("&") for line in table.splitlines() if line.endswith("\\\\") and "multi" not in line]
            for table in tables]  # fmt: skip
    assert [set(each) for each in rows] == [{9}, {4}, {3}]
    assert len(rows[0]) == 1 + len(ARMS) + len(SITES)
    assert any(line.startswith("FFA\\_LoRA &") for line in lines)
    strict = next(c for c in main_table(EXPERIMENT, FINDINGS) if (c.arm, c.column) == ("FFA_LoRA", EXTERNAL))
    told = strict.estimate
    assert f"{told.value:.3f} [{told.low:.3f}, {told.high:.3f}]" in tables[0]


def test_every_number_is_a_row_of_the_csv_file(tmp_path: Path) -> None:
    write_numbers(tmp_path / "numbers.csv", EXPERIMENT, FINDINGS)

    with (tmp_path / "numbers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    scores = [row for row in rows if row["metric"] == "strict_f1"]
    assert len(scores) == len(FINDINGS.scored)
    first = FINDINGS.scored[0]
    assert float(scores[0]["value"]) == pytest.approx(f1_of(first.counts(Rule.STRICT)), abs=1e-5)
    assert float(scores[0]["low"]) <= float(scores[0]["value"]) <= float(scores[0]["high"])
    assert len([row for row in rows if row["metric"] == "upload_bytes"]) == len(FINDINGS.trained)
    whole = [row for row in FINDINGS.scored if row.per_type]
    for metric in ("strict_agnostic_f1", "strict_macro_f1", "strict_f1_of_drug", "malformed_answers"):
        assert len([row for row in rows if row["metric"] == metric]) == len(whole) < len(FINDINGS.scored)
    assert len([row for row in rows if row["metric"] == "difference_strict_f1"]) == len(
        [one for one in differences(EXPERIMENT, FINDINGS) if one.rule is Rule.STRICT]
    )


def test_there_is_a_picture_of_everything_that_there_are_numbers_for(tmp_path: Path) -> None:
    drawn = draw_all(EXPERIMENT, FINDINGS, tmp_path)

    assert {path.stem for path in drawn} == {"losses", "rounds", "new_site", "bytes", "who_helps_whom"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in drawn)


def test_a_picture_whose_numbers_are_gone_goes_too(tmp_path: Path) -> None:
    draw_all(EXPERIMENT, FINDINGS, tmp_path)
    without = [row for row in FINDINGS.scored if row.setting is not Setting.NEW_SITE and not row.round_number]

    draw_all(EXPERIMENT, Findings(kept=[kept_of(Played(scored=without, trained=FINDINGS.trained))]), tmp_path)

    assert {path.stem for path in tmp_path.iterdir()} == {"losses", "bytes", "who_helps_whom"}


def test_the_external_corpus_is_marked_as_such() -> None:
    assert ABROAD in EXPERIMENT.test.external
    assert f"external: {ABROAD}" in report(EXPERIMENT, FINDINGS)


def test_findings_that_another_run_wrote_meanwhile_are_not_lost(tmp_path: Path) -> None:
    other = Kept(name="another", seed=2, asked=digest_of(b"another"), made_by="machine: that one", played=Played())
    write_report(tmp_path, EXPERIMENT, Findings(kept=FINDINGS.kept))
    write_report(tmp_path, EXPERIMENT, Findings(kept=[other]))

    assert {one.name for one in found_in(tmp_path).values()} == {"another", *(one.name for one in FINDINGS.kept)}

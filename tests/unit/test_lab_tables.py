"""Tables, numbers and figures of drawn findings: their structure, and that each number is where it belongs."""

from __future__ import annotations

import csv
import random
import re
from pathlib import Path

import pytest

from common.ids import digest_of
from lab.comparisons import EXTERNAL, IN_DOMAIN, OTHER_NOTES, OWN_NOTES, differences, main_table, new_site_curves
from lab.figures import draw_all
from lab.findings import EVERYBODY, Findings, Kept, Played, Rule, Scored, Setting, others, own, parts
from lab.numbers import COLUMNS, write_numbers
from lab.reports import found_in, write_report
from lab.statistics import f1_of, value_of
from lab.tables import latex, report
from tests.fakes.lab_findings import ABROAD, ARMS, SITES, drawn_documents, kept_of, whole_experiment, whole_findings

EXPERIMENT, FINDINGS = whole_experiment(), whole_findings()
NOTHING = Findings()


def test_the_main_table_has_a_number_for_every_arm_and_setting_and_two_more_for_single_sites() -> None:
    columns = {arm["name"]: [cell.column for cell in main_table(FINDINGS) if cell.arm == arm["name"]] for arm in ARMS}

    assert columns.pop("Single site") == [each for each in (IN_DOMAIN, OWN_NOTES, OTHER_NOTES, EXTERNAL) for _ in Rule]
    assert set(map(tuple, columns.values())) == {(IN_DOMAIN, IN_DOMAIN, EXTERNAL, EXTERNAL)}


def test_scores_of_single_rounds_are_not_in_the_main_table() -> None:
    last = [row for row in FINDINGS.scored if row.arm == "Fed-MedLoRA" and not row.round_number]
    inside = [row for row in last if row.setting is Setting.IN_DOMAIN]

    cell = next(c for c in main_table(FINDINGS) if (c.arm, c.column) == ("Fed-MedLoRA", IN_DOMAIN))

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

    assert {line.count("&") for line in lines} == {8}
    assert len(lines) == 1 + len(ARMS)
    assert any(line.startswith("FFA\\_LoRA &") for line in lines)


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

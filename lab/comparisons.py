"""The comparisons that an experiment is for, as scores and paired differences with intervals. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lab.experiment import Experiment
from lab.findings import NOBODY, Findings, Rule, Scored, Setting, others, own, parts
from lab.statistics import Estimate, difference, estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A number of the main table: an arm's mean F1 in a column, over test sets and seeds."""

    arm: str
    column: str
    rule: Rule
    seeds: int
    estimate: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One arm against another, in a setting: paired by document, over the seeds that both have."""

    left: str
    right: str
    column: str
    rule: Rule
    seeds: int
    estimate: Estimate


IN_DOMAIN, OWN_NOTES, OTHER_NOTES, EXTERNAL = "in-domain", "own notes", "other sites' notes", "external"


def main_table(experiment: Experiment, findings: Findings) -> list[Cell]:
    """Every arm: in-domain and external; single sites also on their own notes and on the others'."""
    cells = []
    for arm in findings.arms():
        for column, rows in _columns(experiment, findings, arm):
            for rule in Rule:
                seeds = len({row.seed for row in rows})
                scored = estimate(list(parts(rows, rule)))
                cells.append(Cell(arm=arm, column=column, rule=rule, seeds=seeds, estimate=scored))
    return cells


def _columns(experiment: Experiment, findings: Findings, arm: str) -> Iterator[tuple[str, Sequence[Scored]]]:
    inside, outside = findings.of(arm, Setting.IN_DOMAIN), findings.of(arm, Setting.EXTERNAL)
    kinds = {one.name: one.kind for one in experiment.arms}
    if inside:
        yield IN_DOMAIN, inside
    if inside and kinds.get(arm) == "single_site":
        yield OWN_NOTES, own(inside)
        if others(inside):
            yield OTHER_NOTES, others(inside)
    if outside:
        yield EXTERNAL, outside


def differences(experiment: Experiment, findings: Findings) -> list[Difference]:
    """Every arm that learns from all sites against the baselines, and against the first federated arm."""
    kinds = {arm.name: arm.kind for arm in experiment.arms}
    shared = [arm for arm in findings.arms() if kinds.get(arm) in ("federated", "best_of")]
    found: list[Difference] = []
    for arm in shared:
        for baseline in [*(name for name in findings.arms() if kinds.get(name) not in (None, "federated", "best_of")),
                         *shared[:1]]:  # fmt: skip
            if baseline != arm:
                found += _against(findings, arm, baseline, is_alone=kinds.get(baseline) == "single_site")
    return found


def _against(findings: Findings, left: str, right: str, *, is_alone: bool) -> Iterator[Difference]:
    inside, outside = findings.of(right, Setting.IN_DOMAIN), findings.of(right, Setting.EXTERNAL)
    columns = [(IN_DOMAIN, Setting.IN_DOMAIN, inside), (EXTERNAL, Setting.EXTERNAL, outside)]
    if is_alone:
        columns[:1] = [(OWN_NOTES, Setting.IN_DOMAIN, own(inside)), (OTHER_NOTES, Setting.IN_DOMAIN, others(inside))]
    for column, setting, rows in columns:
        ours, theirs = _paired(findings.of(left, setting), rows)
        if ours:
            for rule in Rule:
                apart = difference(list(parts(ours, rule)), list(parts(theirs, rule)))
                seeds = len({row.seed for row in ours})
                yield Difference(left=left, right=right, column=column, rule=rule, seeds=seeds, estimate=apart)


def _paired(ours: Sequence[Scored], theirs: Sequence[Scored]) -> tuple[list[Scored], list[Scored]]:
    """Row by row, so that both sides are of one mix of test sets: each of theirs, and ours of its seed and test set.

    What nobody was trained for is the same for every seed: there each row of ours has that of its test set beside it.
    """
    if {row.trained_on for row in theirs} == {NOBODY}:
        by_test_set = {row.test_set: row for row in theirs}
        pairs = [(row, by_test_set[row.test_set]) for row in ours if row.test_set in by_test_set]
    else:
        by_both = {(row.seed, row.test_set): row for row in ours}
        pairs = [(by_both[key], row) for row in theirs if (key := (row.seed, row.test_set)) in by_both]
    return [one for one, _ in pairs], [other for _, other in pairs]


def new_site_curves(findings: Findings) -> dict[str, list[tuple[int, Estimate]]]:
    """Strict F1 at the new site by number of examples, for each start; without any, the arm's external score there."""
    rows = [row for row in findings.scored if row.setting is Setting.NEW_SITE]
    curves: dict[str, list[tuple[int, Estimate]]] = {}
    for start in dict.fromkeys(row.arm for row in rows):
        mine = [row for row in rows if row.arm == start]
        before = [row for row in findings.of(start, Setting.EXTERNAL) if row.test_set == mine[0].test_set]
        groups = {0: before, **{count: [row for row in mine if row.examples == count]
                                for count in sorted({row.examples for row in mine})}}  # fmt: skip
        curves[start] = [(count, estimate(list(parts(group, Rule.STRICT)))) for count, group in groups.items() if group]
    return curves

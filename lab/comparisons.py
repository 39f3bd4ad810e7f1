"""The comparisons that an experiment is for, as scores and paired differences with intervals. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from lab.experiment import Experiment
from lab.findings import (
    NOBODY,
    Findings,
    Rule,
    Scored,
    Setting,
    is_by_site,
    others,
    own,
    parts,
    personal_arm,
    pooled,
)
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
POOLED = "in-domain, pooled"
SHOWN = (IN_DOMAIN, OWN_NOTES, OTHER_NOTES, EXTERNAL)  # in tables; numbers have all
Rows = Sequence[Scored]


def main_table(experiment: Experiment, findings: Findings) -> list[Cell]:
    """Every arm in every column that it has; of an arm with a model a site, each of those, too, under `of_site`."""
    cells: list[Cell] = []
    for arm in findings.arms():
        inside, outside = findings.of(arm, Setting.IN_DOMAIN), findings.of(arm, Setting.EXTERNAL)
        cells += _cells(arm, _columns(experiment, arm, inside, outside))
        if is_by_site(inside):
            for site in dict.fromkeys(row.site or row.trained_on for row in inside):
                mine, theirs = ([row for row in rows if (row.site or row.trained_on) == site]
                                for rows in (inside, outside))  # fmt: skip
                cells += _cells(of_site(arm, site), _columns(experiment, arm, mine, theirs))
    return cells


def of_site(arm: str, site: str) -> str:
    """Under which name stands one site's own model of an arm."""
    return f"{arm}: {site}"


def _cells(name: str, columns: Iterable[tuple[str, Rows]]) -> Iterator[Cell]:
    for column, rows in columns:
        for rule in _rules(rows):
            score = list((pooled if column == POOLED else parts)(rows, rule))
            seeds = len({row.seed for row in rows})
            yield Cell(arm=name, column=column, rule=rule, seeds=seeds, estimate=estimate(score))


def _columns(experiment: Experiment, arm: str, inside: Rows, outside: Rows) -> Iterator[tuple[str, Rows]]:
    """What a model is scored on: the notes of all sites of the experiment, and apart those that it has not seen."""
    seen, unseen = _seen_and_unseen(experiment, arm, inside)
    columns = [
        (IN_DOMAIN, inside),
        (OWN_NOTES, seen if unseen or is_by_site(inside) else []),
        (OTHER_NOTES, unseen),
        (POOLED, [] if is_by_site(inside) else inside),
        (EXTERNAL, outside),
    ]
    return ((column, rows) for column, rows in columns if rows)


def _seen_and_unseen(experiment: Experiment, arm: str, inside: Rows) -> tuple[Rows, Rows]:
    """Rows of corpora that the model was trained on, and of others; in an arm of some sites it is of all of theirs."""
    if is_by_site(inside):
        return own(inside), others(inside)
    held = {site.corpus for one in experiment.arms if one.name == arm for site in experiment.sites_of(one)}
    trained = [row for row in inside if row.trained_on != NOBODY]
    return [row for row in trained if row.test_set in held], [row for row in trained if row.test_set not in held]


def _rules(rows: Rows) -> list[Rule]:
    return [rule for rule in Rule if all(rule in row.rules for row in rows)]


def differences(experiment: Experiment, findings: Findings) -> list[Difference]:
    """Every arm that learns from all sites against the baselines and the first federated arm; then the pairs named."""
    federated = [arm.name for arm in experiment.arms if arm.kind in ("federated", "best_of")]
    known = findings.arms()
    shared = [name for name in known if name in federated]
    learnt = [name for name in known if name in (*federated, *map(personal_arm, federated))]
    baselines = [arm.name for arm in experiment.arms if arm.name in known and arm.name not in federated]
    pairs = [(name, baseline) for name in learnt for baseline in (*baselines, *shared[:1]) if baseline != name]
    pairs += [pair for pair in experiment.compare if set(pair) <= set(known)]
    pairs = list(dict.fromkeys(pairs))
    return [one for left, right in pairs for one in _against(findings, left, right)]


def _against(findings: Findings, left: str, right: str) -> Iterator[Difference]:
    """On the notes of all; where one side has a model a site, apart on those that it was trained on and the others."""
    ours, theirs = findings.of(left, Setting.IN_DOMAIN), findings.of(right, Setting.IN_DOMAIN)
    columns: list[tuple[str, Rows, Rows]] = [(IN_DOMAIN, ours, theirs), (POOLED, ours, theirs)]
    if is_by_site([*ours, *theirs]):
        columns = [(OWN_NOTES, _kept(own, ours), _kept(own, theirs)),
                   (OTHER_NOTES, _kept(others, ours), _kept(others, theirs))]  # fmt: skip
    columns.append((EXTERNAL, findings.of(left, Setting.EXTERNAL), findings.of(right, Setting.EXTERNAL)))
    for column, mine, other in columns:
        pairs = _paired(mine, other)
        for rule in _rules([row for pair in pairs for row in pair]) if pairs else ():
            of_rule = pooled if column == POOLED else parts
            lefts, rights = (list(of_rule(side, rule)) for side in zip(*pairs, strict=True))
            seeds = len({row.seed for row, _ in pairs})
            apart = difference(lefts, rights)
            yield Difference(left=left, right=right, column=column, rule=rule, seeds=seeds, estimate=apart)


def _kept(choose: Callable[[Rows], list[Scored]], rows: Rows) -> Rows:
    """What is chosen of the models of single sites; all of those of everybody and nobody."""
    return choose(rows) if is_by_site(rows) else rows


def _paired(ours: Rows, theirs: Rows) -> list[tuple[Scored, Scored]]:
    """Row by row, so that both sides are of one mix of test sets: of one seed, test set and, where both have, site.

    The side that has a model a site says how often a test set comes; the other one has the same row beside each. What
    nobody was trained for is the same for every seed.
    """
    both_by_site = is_by_site(ours) and is_by_site(theirs)
    is_seeded = any(row.trained_on != NOBODY for row in theirs)

    def key(row: Scored) -> tuple[object, ...]:
        return (row.test_set, row.seed if is_seeded else None, row.site if both_by_site else None)

    if is_by_site(theirs):
        mine = {key(row): row for row in ours}
        return [(mine[key(row)], row) for row in theirs if key(row) in mine]
    others_by_key = {key(row): row for row in theirs}
    return [(row, others_by_key[key(row)]) for row in ours if key(row) in others_by_key]


def new_site_curves(findings: Findings) -> dict[str, list[tuple[int, Estimate]]]:
    """Strict F1 at the new site by number of examples, for each start; without any, the arm's external score there.

    All points of a curve are of the same seeds.
    """
    rows = [row for row in findings.scored if row.setting is Setting.NEW_SITE]
    curves: dict[str, list[tuple[int, Estimate]]] = {}
    for start in dict.fromkeys(row.arm for row in rows):
        mine = [row for row in rows if row.arm == start]
        before = [row for row in findings.of(start, Setting.EXTERNAL)
                  if row.test_set == mine[0].test_set and row.seed in {one.seed for one in mine}]  # fmt: skip
        groups = {0: before, **{count: [row for row in mine if row.examples == count]
                                for count in sorted({row.examples for row in mine})}}  # fmt: skip
        curves[start] = [(count, estimate(list(parts(group, Rule.STRICT)))) for count, group in groups.items() if group]
    return curves

"""The tables of an experiment in Markdown. Pure: text from findings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from common.terms import Task
from lab.comparisons import (
    EXTERNAL,
    IN_DOMAIN,
    SHOWN,
    Cell,
    Difference,
    differences,
    main_table,
    new_site_curves,
)
from lab.experiment import Experiment
from lab.findings import Findings, Rule, Scored, Setting, Trained
from lab.statistics import Estimate

_OTHER_SEEDS = (
    "Rows of fewer seeds are of other draws than those beside them: what they differ by, on the seeds that both have, "
    "is below."
)


def report(experiment: Experiment, findings: Findings) -> str:
    """The whole report."""
    sections = [
        f"# {experiment.name}",
        "\n".join(f"- {line}" for line in [*_setup(experiment), *findings.machines(), *_time(findings)]),
        _missing(findings),
        *(section for task in findings.tasks() for section in _task(task, experiment, findings.of_task(task))),
        _traffic(findings),
        _weights(findings),
        "\n".join(f"- {note}" for note in findings.notes),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _task(task: Task, experiment: Experiment, findings: Findings) -> list[str]:
    return [
        f"## F1 of {task}\n\nStrict / lenient, type-aware, micro-averaged over a corpus's test documents; the mean "
        "over corpora and seeds, with 95 % intervals of the strict one (bootstrap by document).",
        _main(experiment, findings),
        _predictions(experiment, findings),
        f"### Differences of strict F1 of {task}\n\nPaired: the same documents are drawn for both. **Bold**: the "
        "interval is without 0.",
        _differences(experiment, findings),
        _new_site(findings),
    ]


def _setup(experiment: Experiment) -> list[str]:
    sites = [
        f"{site.name} ({site.sentences} sentences of {site.corpus}"
        + (f", part {site.part[0]} of {site.part[1]}" if site.part[1] > 1 else "")
        + (f", {site.wrong_labels:.0%} wrong labels" if site.wrong_labels else "")
        + (f", rank {site.max_lora_rank} at most" if site.max_lora_rank else "")
        + ")"
        for site in experiment.sites
    ]
    test = f"{experiment.test.sentences} sentences of {', '.join(experiment.corpora)}"
    outside = f"; external: {', '.join(experiment.test.external)}" if experiment.test.external else ""
    return [
        f"sites: {'; '.join(sites)}",
        f"scored on {test}{outside}",
        f"seeds: {', '.join(map(str, experiment.seeds))}, where an arm says nothing else",
    ]


def _time(findings: Findings) -> list[str]:
    """How long the arms trained, each as if it were alone: what two have in common was trained once."""
    hours = sum(row.seconds for row in findings.trained) / 3600
    told = f"training took {hours:.1f} h of one trainer; what arms have in common counts in each, the new site in none"
    return [told] if hours else []


def _missing(findings: Findings) -> str:
    if not findings.missing:
        return ""
    lines = [f"- {one.arm}, seed {one.seed}: {one.why}" for one in findings.missing]
    return "\n".join(["**Not in these numbers:**", "", *lines])


def _main(experiment: Experiment, findings: Findings) -> str:
    cells = {(cell.arm, cell.column, cell.rule): cell for cell in main_table(experiment, findings)}
    columns = [column for column in SHOWN if any(key[1] == column for key in cells)]
    rows, of_seeds = [], set()
    for arm in dict.fromkeys(key[0] for key in cells):
        seeds = max(cell.seeds for key, cell in cells.items() if key[0] == arm)
        of_seeds.add(seeds)
        rows.append([arm, str(seeds), *(_pair(cells, arm, column) for column in columns)])
    table = _table(["arm", "seeds", *columns], rows)
    return f"{table}\n\n{_OTHER_SEEDS}" if len(of_seeds) > 1 else table


def _pair(cells: dict[tuple[str, str, Rule], Cell], arm: str, column: str) -> str:
    strict, lenient = (cells.get((arm, column, rule)) for rule in (Rule.STRICT, Rule.LENIENT))
    if strict is None or lenient is None:
        return ""
    sure = f"{strict.estimate.low:.3f} to {strict.estimate.high:.3f}"
    return f"{strict.estimate.value:.3f} / {lenient.estimate.value:.3f} ({sure})"


def _predictions(experiment: Experiment, findings: Findings) -> str:
    """Whether a model finds too much, too little, or answers in no form that can be read; and F1 whatever the type."""
    agnostic = {(cell.arm, cell.column): cell.estimate for cell in main_table(experiment, findings)
                if cell.rule is Rule.STRICT_AGNOSTIC}  # fmt: skip
    rows = []
    for arm in findings.arms():
        settings = (Setting.IN_DOMAIN, IN_DOMAIN), (Setting.EXTERNAL, EXTERNAL)
        scored = [(findings.of(arm, setting), column) for setting, column in settings]
        if any(mine for mine, _ in scored):
            told = [
                cell for mine, column in scored for cell in (_predicted(mine), _interval(agnostic.get((arm, column))))
            ]
            rows.append([arm, *told, _malformed([row for mine, _ in scored for row in mine])])
    head = [f"{column}{of}" for column in (IN_DOMAIN, EXTERNAL) for of in ("", ", type-agnostic F1")]
    title = (
        "### What was predicted\n\nHow many for one that is annotated, in brackets their strict precision and recall, "
        "on all test sets and seeds; strict F1 whatever the type; the share of answers that broke their form. Empty: "
        "not kept with these findings."
    )
    return f"{title}\n\n{_table(['arm', *head, 'malformed'], rows)}" if rows else ""


def _predicted(rows: Sequence[Scored]) -> str:
    right, predicted, gold = sum((row.counts(Rule.STRICT).sum(axis=0) for row in rows), np.zeros(3)).tolist()
    if not gold:
        return ""
    precision = f"{right / predicted:.2f}" if predicted else "none"
    return f"{predicted / gold:.2f} ({precision}, {right / gold:.2f})"


def _malformed(rows: Sequence[Scored]) -> str:
    answers = sum(row.answers for row in rows)
    return f"{sum(row.malformed_answers for row in rows) / answers:.1%}" if answers else ""


def _differences(experiment: Experiment, findings: Findings) -> str:
    found = [one for one in differences(experiment, findings) if one.rule is Rule.STRICT]
    rows = [[one.left, one.right, one.column, str(one.seeds), _apart(one)] for one in found]
    return _table(["arm", "minus", "on", "seeds", "difference"], rows) if rows else ""


def _apart(one: Difference) -> str:
    told = _signed(one.estimate)
    return f"**{told}**" if one.estimate.is_apart_from_zero else told


def _signed(found: Estimate) -> str:
    return f"{found.value:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def _new_site(findings: Findings) -> str:
    curves = new_site_curves(findings)
    if not curves:
        return ""
    counts = sorted({count for curve in curves.values() for count, _ in curve})
    rows = []
    for start, curve in curves.items():
        by_count = dict(curve)
        rows.append([start, *(_interval(by_count.get(count)) for count in counts)])
    title = "### A new site\n\nStrict F1 there, by the number of its examples."
    return f"{title}\n\n{_table(['begins from', *map(str, counts)], rows)}"


def _interval(found: Estimate | None) -> str:
    return "" if found is None else f"{found.value:.3f} ({found.low:.3f} to {found.high:.3f})"


def _traffic(findings: Findings) -> str:
    rows = []
    for arm in dict.fromkeys(row.arm for row in findings.federated()):
        mine = [row for row in findings.federated() if row.arm == arm]
        up, down = (sum(getattr(row, name) for row in mine) / len(mine) for name in ("upload_bytes", "download_bytes"))
        full = mine[0].full_model_bytes or findings.full_model_bytes
        share = (up + down) / (2 * full) if full else 0.0
        rows.append([arm, f"{up / 1e6:.2f}", f"{down / 1e6:.2f}", f"{share:.2%}"])
    if not rows:
        return ""
    title = "## Bytes\n\nOf one site in one round, in MB, and as a share of the full model both ways."
    return f"{title}\n\n{_table(['arm', 'up', 'down', 'share'], rows)}"


def _weights(findings: Findings) -> str:
    """What each site counted for; of the first seed."""
    rows = []
    for arm, seed, number in dict.fromkeys((row.arm, row.seed, row.round_number) for row in findings.federated()):
        mine = [row for row in findings.federated() if (row.arm, row.seed, row.round_number) == (arm, seed, number)]
        if seed == min(row.seed for row in findings.federated() if row.arm == arm):
            told = "; ".join(f"{row.site} {_weight(row)}" for row in mine)
            rows.append([arm, str(seed), str(number), told])
    if not rows:
        return ""
    title = "## Weights\n\nOf each site in the aggregate; in brackets the loss of its update on the validation set."
    return f"{title}\n\n{_table(['arm', 'seed', 'round', 'weights'], rows)}"


def _weight(row: Trained) -> str:
    loss = "" if row.validation_loss is None else f" ({row.validation_loss:.3f})"
    return f"{row.weight:.3f}{loss}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])

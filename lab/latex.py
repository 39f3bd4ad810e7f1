"""The tables of an experiment in LaTeX: scores in the paper's shape, differences, the new site. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from lab.comparisons import SHOWN, Cell, differences, main_table, new_site_curves
from lab.experiment import Experiment
from lab.findings import HEADLINE_RULES, Findings, Rule
from lab.statistics import Estimate


def latex(experiment: Experiment, findings: Findings) -> str:
    """The tables of each task, with 95 % intervals of strict F1; they need the package booktabs."""
    tables = []
    for task in findings.tasks():
        of_task = findings.of_task(task)
        tables += [
            (f"{task}: F1", _main(experiment, of_task)),
            (f"{task}: differences of strict F1, paired by document", _differences(experiment, of_task)),
            (f"{task}: strict F1 at a new site by number of examples", _new_site(of_task)),
        ]
    return "\n".join(f"% {title}\n{table}" for title, table in tables if table)


def _main(experiment: Experiment, findings: Findings) -> str:
    cells = {(cell.arm, cell.column, cell.rule): cell for cell in main_table(experiment, findings)}
    columns = [column for column in SHOWN if any(key[1] == column for key in cells)]
    over = ["", "", *(f"\\multicolumn{{2}}{{c}}{{{_tex(column)}}}" for column in columns)]
    under = ["arm", "seeds", *["strict", "lenient"] * len(columns)]
    rows = []
    for arm in dict.fromkeys(key[0] for key in cells):
        seeds = max(cell.seeds for key, cell in cells.items() if key[0] == arm)
        numbers = [_number(cells.get((arm, column, rule))) for column in columns for rule in HEADLINE_RULES]
        rows.append([_tex(arm), str(seeds), *numbers])
    return _tabular([over, under], rows)


def _number(cell: Cell | None) -> str:
    if cell is None:
        return ""
    return _interval(cell.estimate) if cell.rule is Rule.STRICT else f"{cell.estimate.value:.3f}"


def _differences(experiment: Experiment, findings: Findings) -> str:
    found = [one for one in differences(experiment, findings) if one.rule is Rule.STRICT]
    rows = [[_tex(one.left), _tex(one.right), _tex(one.column), str(one.seeds), _interval(one.estimate, "+")]
            for one in found]  # fmt: skip
    return _tabular([["arm", "minus", "on", "seeds", "difference"]], rows)


def _new_site(findings: Findings) -> str:
    curves = {start: dict(curve) for start, curve in new_site_curves(findings).items()}
    counts = sorted({count for curve in curves.values() for count in curve})
    rows = [[_tex(start), *(_interval(curve[count]) if count in curve else "" for count in counts)]
            for start, curve in curves.items()]  # fmt: skip
    return _tabular([["begins from", *map(str, counts)]], rows)


def _interval(found: Estimate, sign: str = "") -> str:
    return f"{found.value:{sign}.3f} [{found.low:{sign}.3f}, {found.high:{sign}.3f}]"


def _tabular(heads: Sequence[Sequence[str]], rows: Sequence[Sequence[str]]) -> str:
    """Empty without rows."""
    if not rows:
        return ""
    columns = f"l{'r' * (len(rows[0]) - 1)}"
    head, body = ([" & ".join(row) + " \\\\" for row in part] for part in (heads, rows))
    lines = [f"\\begin{{tabular}}{{{columns}}}", "\\toprule", *head, "\\midrule", *body, "\\bottomrule"]
    return "\n".join([*lines, "\\end{tabular}"]) + "\n"


def _tex(text: str) -> str:
    return text.replace("_", "\\_").replace("%", "\\%").replace("&", "\\&")

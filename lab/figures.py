"""Draws an experiment: losses by round and site, F1 by round, the new site, bytes against F1, who helps whom."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.terms import Task
from lab.comparisons import new_site_curves
from lab.experiment import Experiment
from lab.findings import EVERYBODY, NOBODY, Findings, Rule, Scored, Setting, parts, personal_arm
from lab.statistics import estimate, value_of

# Wong's palette (Nature Methods 8, 441, 2011), which most people with a colour deficiency can tell apart.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
_MARKS = "osD^vPX*"
Draw = Callable[[Experiment, Findings], Figure | None]


def draw_all(experiment: Experiment, findings: Findings, folder: Path) -> list[Path]:
    """Write a PNG for every figure that there are numbers for."""
    drawn = []
    for (name, draw), task in itertools.product(_FIGURES.items(), Task):
        path = folder / (f"{name}.png" if task is Task.ENTITIES else f"{name}_{task}.png")
        figure = draw(experiment, findings.of_task(task)) if task in findings.tasks() else None
        if figure is None:
            path.unlink(missing_ok=True)
            continue
        figure.savefig(path, dpi=120)
        pyplot.close(figure)
        drawn.append(path)
    return drawn


def _losses(experiment: Experiment, findings: Findings) -> Figure | None:
    """Training loss of each site by round, one panel an arm; the mean over seeds."""
    arms = list(dict.fromkeys(row.arm for row in findings.trained))
    if not arms:
        return None
    figure, grid = _panels(len(arms), share_y=True)
    names = list(dict.fromkeys(row.site for row in findings.trained))
    for arm, axes in zip(arms, grid, strict=False):
        mine = [row for row in findings.trained if row.arm == arm]
        for site in dict.fromkeys(row.site for row in mine):
            rounds = sorted({row.round_number for row in mine if row.site == site})
            means = [
                float(np.mean([row.mean_loss for row in mine if (row.site, row.round_number) == (site, each)]))
                for each in rounds
            ]
            _line(axes, rounds, means, names.index(site), site)
        axes.set(title=arm, xlabel="round")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, fontsize="small")
    figure.supylabel("training loss, nats a token")
    return figure


def _rounds(experiment: Experiment, findings: Findings) -> Figure | None:
    """Strict F1 after each round, on each test set; of sites' own models, each on its own notes."""
    rows = [row for row in findings.scored if row.round_number and row.trained_on in (EVERYBODY, row.test_set)]
    arms = list(dict.fromkeys(row.arm for row in rows))
    if not arms:
        return None
    figure, grid = _panels(len(arms), share_y=True)
    for arm, axes in zip(arms, grid, strict=False):
        mine = [row for row in rows if row.arm == arm]
        for index, name in enumerate(dict.fromkeys(row.test_set for row in mine)):
            of_set = [row for row in mine if row.test_set == name]
            rounds = sorted({row.round_number for row in of_set})
            found = [
                estimate(list(parts([row for row in of_set if row.round_number == each], Rule.STRICT)))
                for each in rounds
            ]
            label = f"{name} (external)" if of_set[0].setting is Setting.EXTERNAL else name
            _line(axes, rounds, [one.value for one in found], index, label)
            axes.fill_between(
                rounds, [one.low for one in found], [one.high for one in found], color=_colour(index), alpha=0.12, lw=0
            )
        axes.set(title=arm, xlabel="round", ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, fontsize="small")
    figure.supylabel("strict F1 (95 % interval)")
    return figure


def _new_site(experiment: Experiment, findings: Findings) -> Figure | None:
    """Strict F1 at the new site by number of examples, for each start."""
    curves = new_site_curves(findings)
    if not curves or experiment.new_site is None:
        return None
    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    counts = sorted({count for curve in curves.values() for count, _ in curve})
    for index, (start, curve) in enumerate(curves.items()):
        places = [counts.index(count) for count, _ in curve]
        _line(axes, places, [found.value for _, found in curve], index, start)
        lows, highs = [found.low for _, found in curve], [found.high for _, found in curve]
        axes.fill_between(places, lows, highs, color=_colour(index), alpha=0.12, lw=0)
    axes.set_xticks(range(len(counts)), [str(count) for count in counts])
    axes.set(xlabel=f"examples of {experiment.new_site.corpus}", ylabel="strict F1 (95 % interval)", ylim=(0, None))
    axes.set_title("A new site begins from")
    axes.legend(frameon=False)
    return figure


def _bytes(experiment: Experiment, findings: Findings) -> Figure | None:
    """What one site sent and got in the whole run, against strict F1 in-domain (of sites' own models, at home)."""
    points = []
    for arm in findings.arms():
        mine = [row for row in findings.federated() if arm in (row.arm, personal_arm(row.arm))]
        scored = [row for row in findings.of(arm, Setting.IN_DOMAIN) if row.trained_on in (EVERYBODY, row.test_set)]
        if not mine or not scored:
            continue
        runs = len({(row.seed, row.site) for row in mine})
        travelled = sum(row.upload_bytes + row.download_bytes for row in mine) / runs / 1e6
        points.append((arm, travelled, estimate(list(parts(scored, Rule.STRICT)))))
    if not points:
        return None
    figure, axes = pyplot.subplots(figsize=(6.5, 4), layout="constrained")
    places = _side_by_side([travelled for _arm, travelled, _found in points])
    for index, (place, (arm, _travelled, found)) in enumerate(zip(places, points, strict=True)):
        sure = [[found.value - found.low], [found.high - found.value]]
        axes.errorbar(
            [place], [found.value], yerr=np.abs(sure), fmt=_mark(index), color=_colour(index), capsize=3, label=arm
        )
    axes.set(
        xlabel="MB that one site sent and got in the whole run (equal ones side by side)",
        ylabel="strict F1, in-domain (95 % interval)",
    )
    axes.margins(x=0.2)
    axes.set_xlim(left=0)
    axes.legend(frameon=False, fontsize="small")
    return figure


def _side_by_side(places: Sequence[float]) -> list[float]:
    """Places of points, those that would cover each other a little apart, around where they all are."""
    step = 0.02 * max(places)
    near = [[other for other, place in enumerate(places) if abs(place - here) <= step / 2] for here in places]
    return [here + step * (group.index(index) - (len(group) - 1) / 2)
            for index, (here, group) in enumerate(zip(places, near, strict=True))]  # fmt: skip


def _who_helps_whom(experiment: Experiment, findings: Findings) -> Figure | None:
    """Strict F1 of every model on every test set: single sites' in their order, then those of all sites."""
    rows = [row for row in findings.scored if not row.round_number and row.setting is not Setting.NEW_SITE]
    tests = list(dict.fromkeys(row.test_set for row in rows))
    models = list(dict.fromkeys((row.arm, row.trained_on) for row in rows))
    if len(models) < 2:
        return None
    values = np.array(
        [[_mean([row for row in rows if (row.arm, row.trained_on, row.test_set) == (*model, test)]) for test in tests]
         for model in models]
    )  # fmt: skip
    figure, axes = pyplot.subplots(figsize=(2.6 + 1.1 * len(tests), 1.2 + 0.42 * len(models)), layout="constrained")
    axes.imshow(values, cmap="Blues", vmin=0, vmax=max(0.1, float(np.nanmax(values)) * 1.15), aspect="auto")
    alone = {arm.name for arm in experiment.arms if arm.kind == "single_site"}
    names = [arm if on in (EVERYBODY, NOBODY) else f"{on} alone" if arm in alone else f"{on}: {arm}"
             for arm, on in models]  # fmt: skip
    axes.set_yticks(range(len(models)), names)
    outside = set(experiment.test.external)
    axes.set_xticks(range(len(tests)), [f"{test}\n(external)" if test in outside else test for test in tests])
    axes.xaxis.tick_top()
    middle = float(np.nanmax(values)) * 0.65
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            shade = "white" if value > middle else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=shade)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title("Strict F1 on the notes of", pad=12)
    return figure


def _mean(rows: Sequence[Scored]) -> float:
    return value_of(list(parts(rows, Rule.STRICT))) if rows else float("nan")


def _panels(count: int, *, share_y: bool) -> tuple[Figure, list[Axes]]:
    columns = min(3, count)
    lines = -(-count // columns)
    size = (max(5.0, 4.0 * columns), 3.4 * lines)
    figure, grid = pyplot.subplots(lines, columns, figsize=size, squeeze=False, sharey=share_y, layout="constrained")
    panels = list(grid.flat)
    for axes in panels[count:]:
        axes.set_visible(False)
    for axes in panels[:count]:
        axes.grid(alpha=0.3)
    return figure, panels


def _line(axes: Axes, x: Sequence[float], y: Sequence[float], index: int, label: str) -> None:
    axes.plot(x, y, color=_colour(index), marker=_mark(index), markersize=5, label=label)


def _mark(index: int) -> str:
    """The mark of a line or point; where colours begin again, with another one."""
    return _MARKS[(index + index // len(_COLOURS)) % len(_MARKS)]


def _colour(index: int) -> str:
    return _COLOURS[index % len(_COLOURS)]


_FIGURES: dict[str, Draw] = {
    "losses": _losses,
    "rounds": _rounds,
    "new_site": _new_site,
    "bytes": _bytes,
    "who_helps_whom": _who_helps_whom,
}

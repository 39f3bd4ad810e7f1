"""Statistics of annotated sets as PNG images, drawn with matplotlib. It writes no file and opens no window."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from site_agent.trainer.extraction.statistics import Overlap, SetStatistics

# Okabe and Ito's colours, which people with any colour vision tell apart.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
_GRID = "#DDDDDD"
_DOTS_PER_INCH = 150
_LONGEST_LEVEL_NAME = 8
_LEGEND_COLUMNS = 3


def draw_labels(described: Sequence[SetStatistics]) -> bytes:
    """For each entity type its share of every set's entities, the most frequent type on top."""
    totals = [max(1, sum(each.entities.values())) for each in described]
    mean = {
        name: sum(each.entities.get(name, 0) / total for each, total in zip(described, totals, strict=True))
        for each in described
        for name in each.entities
    }
    names = sorted(mean, key=lambda name: (mean[name], name))
    figure, axes = _axes(7, 1.8 + 0.11 * max(2, len(names)) * (len(described) + 1))
    height = 0.8 / len(described)
    for place, (each, total) in enumerate(zip(described, totals, strict=True)):
        shares = [100 * each.entities.get(name, 0) / total for name in names]
        at = np.arange(len(names)) + 0.4 - height * (place + 0.5)
        label = f"{each.name} ({sum(each.entities.values()):,})"
        axes.barh(at, shares, height, color=_COLOURS[place % len(_COLOURS)], label=label)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(axis="x", color=_GRID)
    axes.set_xlabel("share of the set's entities, %")
    axes.set_title("Entity types", loc="left")
    _legend(figure, "set (entities):", len(described))
    return _png(figure)


def draw_lengths(described: Sequence[SetStatistics]) -> bytes:
    """For each set, how many of its passages have at most so many words."""
    figure, axes = _axes(7, 4.2)
    longest = max((each.lengths[-1] for each in described if each.lengths), default=1)
    for place, each in enumerate(described):
        shares = 100 * np.arange(len(each.lengths) + 1) / max(1, len(each.lengths))
        axes.step(
            [0, *each.lengths, longest],
            [*shares, 100],
            where="post",
            color=_COLOURS[place % len(_COLOURS)],
            linewidth=1.8,
            label=f"{each.name} ({each.passages:,})",
        )
    axes.set_xlim(0, longest * 1.02)
    axes.set_ylim(0, 101)
    axes.grid(color=_GRID)
    axes.set_xlabel("words")
    axes.set_ylabel("passages of at most so many words, %")
    axes.set_title("Lengths of passages", loc="left")
    _legend(figure, "set (passages):", len(described))
    return _png(figure)


def draw_overlap(found: Sequence[Overlap]) -> bytes:
    """How many of each set's entities have words that each other set has, too."""
    names = list(dict.fromkeys(each.name for each in found))
    shares = np.full((len(names), len(names)), np.nan)
    for each in found:
        if each.entities_seen is not None:
            shares[names.index(each.name), names.index(each.other)] = 100 * each.entities_seen
    figure, axes = _axes(2.6 + 0.9 * len(names), 1.9 + 0.7 * len(names))
    axes.imshow(np.ma.masked_invalid(shares), cmap="Blues", vmin=0, vmax=100, aspect="auto")
    for row, column in np.ndindex(*shares.shape):
        value = shares[row, column]
        shown = "–" if np.isnan(value) else f"{value:.0f}"
        axes.text(column, row, shown, ha="center", va="center", color="white" if value > 60 else "#222222")
    is_long = max(map(len, names)) > _LONGEST_LEVEL_NAME
    axes.set_xticks(
        range(len(names)), names, rotation=30 * is_long, ha="right" if is_long else "center", rotation_mode="anchor"
    )
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    axes.set_xlabel("have words that this set has, too")
    axes.set_ylabel("entities of")
    axes.set_title("Entities seen elsewhere, %", loc="left")
    return _png(figure)


def _axes(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(figure: Figure, title: str, sets: int) -> None:
    """Below the plot, where nothing is covered; as many columns as fit beside each other."""
    columns = min(sets, _LEGEND_COLUMNS)
    figure.legend(title=title, loc="outside lower center", ncols=columns, frameon=False, alignment="center")


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=_DOTS_PER_INCH)
    return out.getvalue()

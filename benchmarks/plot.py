"""Draws the figures of `benchmarks.transport` and `benchmarks.peers` for ``docs/performance.md``.

::

    python -m benchmarks.plot --transport T.json ... --peers P.json ... --out docs/images
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

from benchmarks.transport import MEMORY_BOUND_BYTES

Row = Mapping[str, Any]

COLOURS = {"large": "#1f4e79", "small": "#c55a11"}
NAMES = {"fedmedlora": "here", "nvflare": "NVIDIA FLARE", "flwr": "Flower"}
MEASURES = (
    ("seconds_per_round", 1.0, "seconds a round"),
    ("cpu_seconds", 1.0, "CPU seconds a round, server and sites"),
    ("server_peak_rss_bytes", 1e9, "server memory, GB"),
)


def draw_transport(rows: Sequence[Row], path: Path) -> None:
    """Seconds beside the raw limit, and memory beside its bound, by number of sites."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for adapter in sorted({row["adapter"] for row in rows}):
        mine = sorted((row for row in rows if row["adapter"] == adapter), key=lambda row: int(row["sites"]))
        sites = [row["sites"] for row in mine]
        label = f"{mine[0]['file_bytes'] / 1e6:.0f} MB adapter"
        colour = COLOURS[adapter]
        left.plot(sites, [row["seconds_per_round"] for row in mine], "o-", color=colour, label=label)
        raw = [row["raw_limit_seconds"] for row in mine]
        left.plot(sites, raw, "s:", color=colour, alpha=0.6, label=f"{label}, raw limit")
        peaks = [row["coordinator_peak_rss_bytes"] / 1e6 for row in mine]
        right.plot(sites, peaks, "o-", color=colour, label=label)
    right.axhline(MEMORY_BOUND_BYTES / 1e6, color="black", linestyle="--", linewidth=1, label="bound")
    right.set(title="Coordinator's peak memory, MB", ylim=(0, None))
    left.set(title="Seconds a round", yscale="log")
    _plain(left.yaxis, None)
    for axes in (left, right):
        axes.set(xlabel="sites that upload at once", xscale="log")
        _plain(axes.xaxis, sorted({row["sites"] for row in rows}))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def draw_peers(rows: Sequence[Row], path: Path) -> None:
    """One column a number of sites and one row a measure; bars by system and dtype. Rows that failed are left out."""
    done = [{**row, "cpu_seconds": _cpu_seconds(row)} for row in rows if not row["failure"]]
    works = sorted({(row["work"]["adapter"], row["work"]["sites"]) for row in done})
    figure, grid = pyplot.subplots(
        len(MEASURES), len(works), figsize=(5 * len(works), 6), squeeze=False, layout="constrained"
    )
    for column, work in enumerate(works):
        mine = [row for row in done if (row["work"]["adapter"], row["work"]["sites"]) == work]
        for (name, unit, title), axes in zip(MEASURES, grid[:, column], strict=True):
            _bars(axes, [(_label(row), row[name] / unit) for row in mine])
            axes.set(title=title)
        grid[0, column].set_title(f"{work[0]} adapter, {work[1]} sites\n\n{MEASURES[0][2]}")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _bars(axes: Axes, bars: Sequence[tuple[str, float]]) -> None:
    colours = ["#1f4e79" if label.startswith("here") else "#a6a6a6" for label, _ in bars]
    drawn = axes.barh([label for label, _ in bars], [value for _, value in bars], color=colours)
    axes.bar_label(drawn, fmt="%.1f", padding=3)
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)


def _label(row: Row) -> str:
    system = str(row["system"]).split()[0]
    return f"{NAMES[system]}, {row['dtype']}"


def _cpu_seconds(row: Row) -> float:
    return float(row["server_cpu_seconds_per_round"]) + float(row["clients_cpu_seconds_per_round"])


def _plain(axis: Any, ticks: Sequence[float] | None) -> None:
    """Numbers as they are said, not powers of ten."""
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    if ticks is not None:
        axis.set_major_locator(FixedLocator(list(ticks)))
        axis.set_minor_locator(NullLocator())


def _rows(paths: Sequence[Path]) -> list[Row]:
    figures = [json.loads(path.read_text(encoding="utf-8"))["figures"] for path in paths]
    return [row for each in figures for row in (each if isinstance(each, list) else each["rows"])]


def main() -> None:
    """Draw what files were given for."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--transport", type=Path, nargs="+", default=[], help="figures of benchmarks.transport")
    options.add_argument("--peers", type=Path, nargs="+", default=[], help="figures of benchmarks.peers")
    options.add_argument("--out", type=Path, default=Path("docs/images"))
    given = options.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.transport:
        draw_transport(_rows(given.transport), given.out / "transport.png")
    if given.peers:
        draw_peers(_rows(given.peers), given.out / "peers.png")


if __name__ == "__main__":
    main()

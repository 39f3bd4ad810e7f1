"""How far training moves an adapter: Frobenius norm of update minus start, in all and tensor by tensor.

The sites' own trainer on the demo's notes, each site from one first adapter, and a second round from the first site's
update, where B is no longer zero. It is what a site's `[egress] max_norm` bounds.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from math import hypot
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import parser, write_figures
from common.adapter import A_SUFFIX
from common.terms import LoraTerms, Schedule, Terms, TrainingTerms
from common.weights_io import WeightsReader
from demo.chains import Chain, Link, run_chains
from demo.corpora import SiteCorpus, corpora_of
from demo.options import parse_options
from demo.orders import RunOrders, write_order
from demo.prepare import demo_terms
from demo.processes import ProcessGroup, process_group
from site_agent.orders import UPDATE_FILE, BaseModelSource, Order, TrainResult


def settings_of(demo: Terms, examples: int) -> dict[str, Terms]:
    """The demo's own terms, and the paper's rates and rank without what needs a GPU (NF4, gradient checkpointing)."""
    paper = TrainingTerms(
        learning_rate=2e-4,
        local_epochs=2,
        schedule=Schedule.COSINE,
        warmup_ratio=0.05,
        batch_size=4,
        tokens_per_batch=3200,
        max_length=800,
        examples_per_round=examples,
    )
    return {"demo": demo, "paper": replace(demo, lora=LoraTerms(lora_rank=16, lora_alpha=64), training=paper)}


def norms(update: Path, start: Path) -> dict[str, float]:
    """Of update minus start, by tensor."""
    with WeightsReader(update) as after, WeightsReader(start) as before:
        names = [slot.name for slot in after.layout.tensors]
        return {name: float(np.linalg.norm(after.tensor(name) - before.tensor(name))) for name in names}


def figure(setting: str, round_number: int, link: Link, start: Path) -> dict[str, object]:
    """What one update came to."""
    result = link.result()
    assert isinstance(result, TrainResult)
    moves = norms(link.folder / UPDATE_FILE, start)
    sides = {side: [norm for name, norm in moves.items() if name.endswith(A_SUFFIX) == (side == "a")] for side in "ab"}
    return {
        "setting": setting,
        "site": link.says,
        "round": round_number,
        "steps": result.steps,
        "num_examples": result.num_examples,
        "norm": hypot(*moves.values()),
        **{f"{side}_median": median(norms_) for side, norms_ in sides.items()},
        **{f"{side}_largest": max(norms_) for side, norms_ in sides.items()},
    }


def measure(
    setting: str, orders: RunOrders, corpora: Sequence[SiteCorpus], group: ProcessGroup, folder: Path
) -> list[dict[str, object]]:
    """A round of every site, and one more of the first."""
    console = Console(file=sys.stderr)

    def perform(name: str, says: str, order: Order, adapter: Path | None = None) -> Link:
        link = write_order(folder / name, says, order, adapter)
        run_chains([Chain(folder=link.folder, links=[link])], 1, group, console)
        return link

    first = perform("first", "first", orders.initialise()).folder / UPDATE_FILE
    begun = [perform(f"1-{one.site}", one.site, orders.train(one, 1), first) for one in corpora]
    rows = [figure(setting, 1, link, first) for link in begun]
    start = begun[0].folder / UPDATE_FILE
    later = perform("2", corpora[0].site, orders.train(corpora[0], 2), start)
    return [*rows, figure(setting, 2, later, start)]


def main() -> int:
    """Measure each setting."""
    options = parser(__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--settings", nargs="+", choices=("demo", "paper"), default=["demo", "paper"])
    given, others = options.parse_known_args()
    demo, _ = parse_options(others)  # --model, --sites, --examples, --seed, --device
    figures: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name, process_group(Path(name) / "logs") as group:
        corpora = corpora_of(demo, Path(name) / "notes")
        terms = settings_of(demo_terms(demo, [corpus.site for corpus in corpora]), demo.examples_per_round)
        for setting in given.settings:
            source = BaseModelSource(
                location=demo.base_model, expected=terms[setting].base_model, device=demo.device, threads=1
            )
            orders = RunOrders(terms=terms[setting], source=source)
            figures += measure(setting, orders, corpora, group, Path(name) / setting)
    table = Table(*figures[0])
    for row in figures:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    Console(width=160).print(table)
    write_figures(given.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())

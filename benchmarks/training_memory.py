"""What training takes of a CPU's memory, beside the doctor's estimate (`site_agent/domain/memory_estimate.py`).

The sites' own trainer, a process for each setting, on generated notes; measured is the most that was resident of it,
pages of files included. What a GPU takes is not measured here.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.machine import parser, write_figures
from common.terms import LossOn, Terms
from demo.chains import Chain, run_chains
from demo.corpora import SiteCorpus, corpora_of
from demo.options import parse_options
from demo.orders import RunOrders, write_order
from demo.prepare import demo_terms
from demo.processes import ProcessGroup, process_group
from site_agent.adapters.machine_checks import estimate_for
from site_agent.orders import UPDATE_FILE, BaseModelSource, TrainResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What memory depends on; the batch size is never the tighter bound, and every token is a label."""

    lora_rank: int
    tokens_per_batch: int
    gradient_checkpointing: bool = False

    def of(self, terms: Terms) -> Terms:
        """``terms`` with it."""
        training = replace(
            terms.training,
            batch_size=256,
            tokens_per_batch=self.tokens_per_batch,
            gradient_checkpointing=self.gradient_checkpointing,
            loss_on=LossOn.PROMPT_AND_ANSWER,
        )
        return replace(terms, lora=replace(terms.lora, lora_rank=self.lora_rank), training=training)


SETTINGS = (
    Setting(lora_rank=8, tokens_per_batch=640),
    Setting(lora_rank=16, tokens_per_batch=2048),
    Setting(lora_rank=16, tokens_per_batch=2048, gradient_checkpointing=True),
    Setting(lora_rank=64, tokens_per_batch=640, gradient_checkpointing=True),
)


def measure(
    setting: Setting, terms: Terms, source: BaseModelSource, corpus: SiteCorpus, group: ProcessGroup, folder: Path
) -> dict[str, object]:
    """Train a round in a process of its own."""
    orders, console = RunOrders(terms=setting.of(terms), source=source), Console(file=sys.stderr)
    first = write_order(folder / "first", "first adapter", orders.initialise())
    run_chains([Chain(folder=first.folder, links=[first])], 1, group, console)
    link = write_order(folder / "train", str(setting), orders.train(corpus, 1), first.folder / UPDATE_FILE)
    run_chains([Chain(folder=link.folder, links=[link])], 1, group, console)
    result = link.result()
    assert isinstance(result, TrainResult)
    return {
        "lora_rank": setting.lora_rank,
        "tokens_per_batch": setting.tokens_per_batch,
        "gradient_checkpointing": setting.gradient_checkpointing,
        "steps": result.steps,
        "peak_rss_bytes": result.peak_memory_bytes,
        "estimated_bytes": estimate_for(
            Path(source.location), setting.of(terms).lora, setting.of(terms).training, is_on_gpu=False
        ),
    }


def main() -> int:
    """Measure each setting."""
    options = parser(__doc__.splitlines()[0] if __doc__ else "")
    given, others = options.parse_known_args()
    demo, _ = parse_options(others)  # --model, --examples, --seed
    with tempfile.TemporaryDirectory() as name, process_group(Path(name) / "logs") as group:
        corpora = corpora_of(demo, Path(name) / "notes")
        terms = demo_terms(demo, [corpus.site for corpus in corpora])
        source = BaseModelSource(location=demo.base_model, expected=terms.base_model, device="cpu", threads=1)
        figures = [
            measure(setting, terms, source, corpora[0], group, Path(name) / str(number))
            for number, setting in enumerate(SETTINGS)
        ]
    table = Table("rank", "tokens a batch", "recomputed", "steps", "peak MB", "estimate MB")
    for row in figures:
        *counts, peak, estimate = row.values()
        table.add_row(*map(str, counts), *(f"{float(str(each)) / 1e6:.0f}" for each in (peak, estimate)))
    Console().print(table)
    write_figures(given.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())

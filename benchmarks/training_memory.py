"""What training takes of memory, beside the doctor's estimate (`site_agent/domain/memory_estimate.py`), and its speed.

The sites' own trainer, a process for each setting, on generated notes. Measured is, on a CPU, the most that was
resident of it, pages of files included; on a GPU (``--device cuda``) the most that tensors took, and how much more of
the GPU was in use than before. A GPU is used when it is named. ``--shape`` trains a model of a published shape with
random weights.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.machine import parser, write_figures
from benchmarks.random_model import make_random_model
from benchmarks.shapes import SHAPES
from common.terms import LossOn, Quantization, Terms
from demo.chains import Chain, run_chains
from demo.corpora import SiteCorpus, corpora_of
from demo.options import DemoOptions, parse_options
from demo.orders import RunOrders, write_order
from demo.prepare import demo_terms
from demo.processes import ProcessGroup, process_group
from site_agent.adapters.machine_checks import estimate_for, start_nvml
from site_agent.orders import UPDATE_FILE, BaseModelSource, TrainResult

_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What memory depends on; the batch size is never the tighter bound, and every token is a label."""

    lora_rank: int
    tokens_per_batch: int
    gradient_checkpointing: bool = False
    quantization: Quantization = Quantization.NONE

    def of(self, terms: Terms) -> Terms:
        """``terms`` with it."""
        training = replace(
            terms.training,
            batch_size=256,
            tokens_per_batch=self.tokens_per_batch,
            gradient_checkpointing=self.gradient_checkpointing,
            quantization=self.quantization,
            loss_on=LossOn.PROMPT_AND_ANSWER,
        )
        return replace(terms, lora=replace(terms.lora, lora_rank=self.lora_rank), training=training)


ON_CPU = (
    Setting(lora_rank=8, tokens_per_batch=640),
    Setting(lora_rank=16, tokens_per_batch=2048),
    Setting(lora_rank=16, tokens_per_batch=2048, gradient_checkpointing=True),
    Setting(lora_rank=64, tokens_per_batch=640, gradient_checkpointing=True),
)
ON_GPU = (
    Setting(lora_rank=16, tokens_per_batch=2048),
    Setting(lora_rank=16, tokens_per_batch=2048, gradient_checkpointing=True, quantization=Quantization.NF4),
    Setting(lora_rank=16, tokens_per_batch=8192, gradient_checkpointing=True, quantization=Quantization.NF4),
    Setting(lora_rank=16, tokens_per_batch=2048, gradient_checkpointing=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What a setting took: bytes, and tokens a second over all steps, the first ones included.

    Attributes:
        estimated_bytes: The doctor's; None where the base model could not be sized.
        gpu_bytes_in_use: More than before; 0 on a CPU.
    """

    setting: Setting
    steps: int
    tokens_per_second: float
    peak_bytes: int
    gpu_bytes_in_use: int
    estimated_bytes: int | None


@dataclass(slots=True)
class InUse:
    """How much of a GPU's memory is in use, bytes, whoever uses it: before, and at most since."""

    before: int = 0
    most: int = 0


@contextmanager
def watched(device: str) -> Iterator[InUse]:
    """Ask the driver again and again while the block runs; on a CPU, nothing.

    Raises:
        LookupError: no driver answers.
    """
    seen, is_over = InUse(), threading.Event()
    if not device.startswith("cuda"):
        yield seen
        return
    nvml = start_nvml()
    handle = nvml.nvmlDeviceGetHandleByIndex(int(device.partition(":")[2] or 0))

    def watch() -> None:
        while not is_over.wait(_POLL_SECONDS):
            seen.most = max(seen.most, int(nvml.nvmlDeviceGetMemoryInfo(handle).used))

    seen.before = seen.most = int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        thread.join()


def measure(
    setting: Setting, terms: Terms, source: BaseModelSource, corpus: SiteCorpus, group: ProcessGroup, folder: Path
) -> Measured:
    """Train a round in a process of its own."""
    orders, console = RunOrders(terms=setting.of(terms), source=source), Console(file=sys.stderr)
    first = write_order(folder / "first", "first adapter", orders.initialise())
    run_chains([Chain(folder=first.folder, links=[first])], 1, group, console)
    link = write_order(folder / "train", str(setting), orders.train(corpus, 1), first.folder / UPDATE_FILE)
    with watched(source.device) as gpu:
        run_chains([Chain(folder=link.folder, links=[link])], 1, group, console)
    result = link.result()
    assert isinstance(result, TrainResult)
    asked = setting.of(terms)
    needed = estimate_for(Path(source.location), asked.lora, asked.training, is_on_gpu=source.device != "cpu")
    return Measured(
        setting=setting,
        steps=result.steps,
        tokens_per_second=result.tokens_per_second,
        peak_bytes=result.peak_memory_bytes,
        gpu_bytes_in_use=gpu.most - gpu.before,
        estimated_bytes=None if needed is None else needed.total_bytes,
    )


def table_of(figures: Sequence[Measured]) -> Table:
    """The figures for a person."""
    table = Table(
        "rank", "tokens a batch", "recomputed", "weights", "steps", "tokens/s", "peak MB", "GPU MB", "estimate MB"
    )
    for one in figures:
        asked, sizes = one.setting, (one.peak_bytes, one.gpu_bytes_in_use, one.estimated_bytes or 0)
        table.add_row(
            str(asked.lora_rank),
            str(asked.tokens_per_batch),
            str(asked.gradient_checkpointing),
            asked.quantization,
            str(one.steps),
            f"{one.tokens_per_second:.0f}",
            *(f"{size / 1e6:.0f}" for size in sizes),
        )
    return table


def measure_all(given: Namespace, demo: DemoOptions, scratch: Path) -> list[Measured]:
    """Each setting after the other; what is done is kept in the file that was asked for."""
    device = demo.device if demo.device.startswith("cuda") else "cpu"
    if given.shape:
        model = make_random_model(scratch / given.shape, SHAPES[given.shape], Path(demo.base_model), device)
        demo = replace(demo, base_model=str(model))
    figures = []
    with process_group(scratch / "logs") as group:
        corpora = corpora_of(demo, scratch / "notes")
        terms = demo_terms(demo, [corpus.site for corpus in corpora])
        source = BaseModelSource(location=demo.base_model, expected=terms.base_model, device=device, threads=1)
        for number, setting in enumerate(ON_CPU if device == "cpu" else ON_GPU):
            figures.append(measure(setting, terms, source, corpora[0], group, scratch / str(number)))
            write_figures(given.json, [asdict(one) for one in figures])
    return figures


def main() -> int:
    """Measure each setting."""
    options = parser(__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--shape", choices=sorted(SHAPES), help="train a random model of this shape")
    options.add_argument("--scratch", type=Path, help="a folder with room for a temporary one")
    given, others = options.parse_known_args()
    demo, _ = parse_options(others)  # --model, --examples, --seed, --device
    with tempfile.TemporaryDirectory(dir=given.scratch) as name:
        Console(width=120).print(table_of(measure_all(given, demo, Path(name))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Whether a model learns relations: F1 on held-out passages before and after training on some of a corpus.

The sites' own trainer, one order after the other, on one site's files: zero shot, then rounds of training with a score
after each. Heads are the gold ones, as in the paper.
"""

from __future__ import annotations

import sys
import tempfile
from argparse import Namespace
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.machine import parser, write_figures
from common.adapter import FactorSet
from common.label_schema import RELATION_TYPES
from common.terms import LoraTerms, PromptForm, Task, TaskTerms, TrainingTerms
from demo.chains import Link
from demo.orders import write_order
from site_agent.orders import (
    FAILURE_FILE,
    UPDATE_FILE,
    BaseModelSource,
    EvaluateOrder,
    EvaluateResult,
    F1Counts,
    InitialiseOrder,
    Order,
    TaskScores,
    TrainOrder,
)
from site_agent.trainer.base_model_files import describe_base_model
from site_agent.trainer.extraction.scoring import f1, macro_f1
from site_agent.trainer.quiet import quiet_libraries
from site_agent.trainer.runner import run_order

_WIRE_DTYPE = "bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What is trained on, with what settings, and where the orders lie."""

    options: Namespace
    source: BaseModelSource
    task: TaskTerms
    training: TrainingTerms
    folder: Path

    def perform(self, name: str, order: Order, adapter: Path | None = None) -> Link:
        """Have one order done.

        Raises:
            RuntimeError: it failed.
        """
        link = write_order(self.folder / name, name, order, adapter)
        if run_order(link.folder):
            raise RuntimeError((link.folder / FAILURE_FILE).read_text(encoding="utf-8"))
        return link

    def first_adapter(self) -> Path:
        """A random, B zero."""
        order = InitialiseOrder(base_model=self.source, lora=LoraTerms(), seed=0, wire_dtype=_WIRE_DTYPE)
        return self.perform("first", order).folder / UPDATE_FILE

    def train(self, round_number: int, adapter: Path) -> Path:
        """One round on the corpus's train split."""
        order = TrainOrder(
            base_model=self.source,
            lora=LoraTerms(),
            task=self.task,
            training=self.training,
            data_files=(str(self.options.corpus / "train.jsonl"),),
            trained=FactorSet.A_AND_B,
            uploaded=FactorSet.A_AND_B,
            round_number=round_number,
            seed=0,
            wire_dtype=_WIRE_DTYPE,
        )
        return self.perform(f"train-{round_number}", order, adapter).folder / UPDATE_FILE

    def score(self, name: str, adapter: Path | None) -> dict[str, object]:
        """Score an adapter, or the bare model, on the corpus's test split, and print that."""
        order = EvaluateOrder(
            base_model=self.source,
            lora=LoraTerms(),
            task=self.task,
            training=self.training,
            data_files=(str(self.options.corpus / "test.jsonl"),),
            max_passages=self.options.test_passages,
        )
        result = self.perform(name, order, adapter).result()
        assert isinstance(result, EvaluateResult)
        (scores,) = (one for one in result.tasks if one.task is Task.RELATIONS)
        _print(name, scores)
        return {"name": name, **asdict(scores), "seconds": result.seconds}


def _print(name: str, scores: TaskScores) -> None:
    assert scores.strict is not None and scores.lenient is not None and scores.strict_interval is not None
    interval = f"{scores.strict_interval.low:.3f} to {scores.strict_interval.high:.3f}"
    sys.stdout.write(
        f"{name}: loss {scores.mean_loss:.3f}, strict F1 {f1(scores.strict):.3f} ({interval}), "
        f"lenient {f1(scores.lenient):.3f}, strict macro {macro_f1(one.strict for one in scores.per_type):.3f}; "
        f"{scores.num_examples} heads, {scores.malformed_answers} answers malformed\n"
    )
    for one in scores.per_type:
        sys.stdout.write(f"{one.entity_type:>20}  {_counts_text(one.strict)}\n")
    sys.stdout.flush()


def _counts_text(counts: F1Counts) -> str:
    return f"strict F1 {f1(counts):.3f}, {counts.true_positives} of {counts.gold} found, {counts.predicted} predicted"


def main() -> int:
    """Score, train and score again."""
    made = parser(__doc__.splitlines()[0] if __doc__ else "")
    made.add_argument("--corpus", type=Path, required=True, help="a folder with train.jsonl and test.jsonl")
    made.add_argument("--model", required=True, help="the base model's folder")
    made.add_argument("--form", choices=[str(form) for form in PromptForm], default=str(PromptForm.JSON))
    made.add_argument("--rounds", type=int, default=2)
    made.add_argument("--examples", type=int, default=400, help="heads a round")
    made.add_argument("--test-passages", type=int, default=100)
    made.add_argument("--device", default="auto")
    options = made.parse_args()
    quiet_libraries()
    expected = describe_base_model(Path(options.model), "base")
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(
            options=options,
            source=BaseModelSource(location=options.model, expected=expected, device=options.device, threads=1),
            task=TaskTerms(
                prompt_form=PromptForm(options.form),
                max_new_tokens=128,
                relation_types=tuple(sorted(RELATION_TYPES)),
                relations_only=True,
            ),
            # The demo's rates, which suit so few steps.
            training=TrainingTerms(
                learning_rate=1.5e-4, lora_plus_ratio=16.0, max_length=640, examples_per_round=options.examples
            ),
            folder=Path(name),
        )
        figures = [bench.score("zero-shot", None)]
        adapter = bench.first_adapter()
        for number in range(1, options.rounds + 1):
            adapter = bench.train(number, adapter)
            figures.append(bench.score(f"after-{number * options.examples}-heads", adapter))
    write_figures(options.json, figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Trains single-site models and scores every model on every site's held-out notes, with the sites' own trainer.

The orders are those that an agent writes. A *chain* is a row of orders that one trainer process works through; as many
chains run beside each other as there are cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from common.adapter import FactorSet
from common.terms import Terms
from demo.corpora import SiteCorpus
from demo.options import DemoOptions
from site_agent.orders import (
    ADAPTER_FILE,
    FAILURE_FILE,
    ORDER,
    ORDER_FILE,
    RESULT,
    RESULT_FILE,
    UPDATE_FILE,
    BaseModelSource,
    EvaluateOrder,
    EvaluateResult,
    InitialiseOrder,
    Order,
    TrainOrder,
)

FEW_SHOTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreKey:
    """One cell of the demo's table: which model, on whose notes."""

    model: str  # zero_shot, three_shot, federated, or single_site:<site>
    site: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """Makes the orders and runs them.

    Attributes:
        federated: The adapter that the federation published (safetensors).
    """

    options: DemoOptions
    terms: Terms
    corpora: Sequence[SiteCorpus]
    folder: Path
    federated: Path

    def score(self) -> Mapping[ScoreKey, EvaluateResult]:
        """Every model on every site's test notes.

        Raises:
            RuntimeError: a trainer failed; names the order's folder.
        """
        # The longest first, so that no core is left with one of them at the end.
        chains = [*(self._single_site(corpus) for corpus in self.corpora), self._federated(), *self._base_model()]
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(_run_chain, chains))
        scores = {}
        for folder in (folder for chain in chains for folder in chain if folder.name.startswith("on-")):
            result = RESULT.validate_json((folder / RESULT_FILE).read_bytes())
            assert isinstance(result, EvaluateResult)
            scores[ScoreKey(model=folder.parent.name, site=folder.name.removeprefix("on-"))] = result
        return scores

    def _single_site(self, corpus: SiteCorpus) -> list[Path]:
        """The same first adapter, as many examples as in all rounds together, then every site's test notes."""
        home = self.folder / f"single_site:{corpus.site}"
        examples = self.terms.training.examples_per_round * self.options.rounds
        training = replace(self.terms.training, examples_per_round=examples)
        first = InitialiseOrder(
            base_model=self._source(),
            lora=self.terms.lora,
            seed=training.seed,
            wire_dtype=self.terms.aggregation.wire_dtype,
        )
        train = TrainOrder(
            base_model=self._source(),
            lora=self.terms.lora,
            task=self.terms.task,
            training=training,
            data_files=(str(corpus.train),),
            trained=FactorSet.A_AND_B,
            uploaded=FactorSet.A_AND_B,
            round_number=1,
            seed=training.seed,
            wire_dtype=self.terms.aggregation.wire_dtype,
        )
        chain = [_write(home / "first", first), _write(home / "train", train, home / "first" / UPDATE_FILE)]
        tests = [self._evaluate(home, on, home / "train" / UPDATE_FILE) for on in self.corpora]
        return [*chain, *tests]

    def _federated(self) -> list[Path]:
        return [self._evaluate(self.folder / "federated", on, self.federated) for on in self.corpora]

    def _base_model(self) -> list[list[Path]]:
        chains = [[self._evaluate(self.folder / "zero_shot", on, None)] for on in self.corpora]
        if self.options.with_three_shot:
            chains += [[self._evaluate(self.folder / "three_shot", on, None, FEW_SHOTS)] for on in self.corpora]
        return chains

    def _evaluate(self, home: Path, on: SiteCorpus, adapter: Path | None, shots: int = 0) -> Path:
        order = EvaluateOrder(
            base_model=self._source(),
            lora=self.terms.lora,
            task=self.terms.task,
            training=self.terms.training,
            data_files=(str(on.test),),
            shot_files=(str(on.train),) if shots else (),
            shots=shots,
            max_passages=self.options.test_passages,
            seed=self.options.seed,
        )
        return _write(home / f"on-{on.site}", order, adapter)

    def _source(self) -> BaseModelSource:
        return BaseModelSource(
            location=self.options.base_model, expected=self.terms.base_model, device=self.options.device, threads=1
        )


def _write(folder: Path, order: Order, adapter: Path | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / ORDER_FILE).write_bytes(ORDER.dump_json(order, indent=2))
    if adapter is not None:  # it may not be there yet: an earlier order of the chain writes it
        (folder / ADAPTER_FILE).symlink_to(adapter.resolve())
    return folder


def _run_chain(folders: Sequence[Path]) -> None:
    command = [sys.executable, "-m", "site_agent.trainer", *map(str, folders)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    subprocess.run(command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    for folder in folders:
        if not (folder / RESULT_FILE).is_file():
            failure = folder / FAILURE_FILE
            said = failure.read_text(encoding="utf-8") if failure.is_file() else "it said nothing"
            raise RuntimeError(f"the trainer failed on {folder}: {said}")

"""The orders of a run, as a site's agent writes them, in folders of their own. It carries out none of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.adapter import FactorSet
from common.terms import Terms
from demo.chains import Link
from demo.corpora import SiteCorpus
from site_agent.orders import (
    ADAPTER_FILE,
    ORDER,
    ORDER_FILE,
    BaseModelSource,
    EvaluateOrder,
    InitialiseOrder,
    Order,
    TrainOrder,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOrders:
    """What the terms of a run ask of a trainer whose base model is at ``source``."""

    terms: Terms
    source: BaseModelSource

    def initialise(self) -> InitialiseOrder:
        """Make the first adapter."""
        terms = self.terms
        return InitialiseOrder(
            base_model=self.source,
            lora=terms.lora,
            seed=terms.training.seed,
            wire_dtype=terms.aggregation.wire_dtype,
        )

    def train(self, corpus: SiteCorpus, round_number: int) -> TrainOrder:
        """Train on a site's notes for one round."""
        terms = self.terms
        return TrainOrder(
            base_model=self.source,
            lora=terms.lora,
            task=terms.task,
            training=terms.training,
            data_files=(str(corpus.train),),
            trained=FactorSet.A_AND_B,
            uploaded=FactorSet.A_AND_B,
            round_number=round_number,
            seed=terms.training.seed,
            wire_dtype=terms.aggregation.wire_dtype,
        )

    def score(self, corpus: SiteCorpus, max_passages: int, shots: int = 0) -> EvaluateOrder:
        """Extract from a site's test notes, and score that."""
        return self._evaluate(corpus, max_passages, shots, measure_loss=False)

    def measure_loss(self, corpus: SiteCorpus, max_passages: int) -> EvaluateOrder:
        """Measure the token loss on a site's test notes."""
        return self._evaluate(corpus, max_passages, shots=0, measure_loss=True)

    def _evaluate(self, corpus: SiteCorpus, max_passages: int, shots: int, *, measure_loss: bool) -> EvaluateOrder:
        terms = self.terms
        return EvaluateOrder(
            base_model=self.source,
            lora=terms.lora,
            task=terms.task,
            training=terms.training,
            data_files=(str(corpus.test),),
            shot_files=(str(corpus.train),) if shots else (),
            shots=shots,
            max_passages=max_passages,
            measure_loss=measure_loss,
            generate=not measure_loss,
            seed=terms.training.seed,
        )


def write_order(folder: Path, says: str, order: Order, adapter: Path | None = None) -> Link:
    """Put an order and the adapter that it starts from, if any, into a new folder."""
    folder.mkdir(parents=True)
    (folder / ORDER_FILE).write_bytes(ORDER.dump_json(order, indent=2))
    if adapter is not None:  # it may not be there yet: an earlier order of the chain writes it
        (folder / ADAPTER_FILE).symlink_to(adapter.resolve())
    return Link(folder=folder, says=says)

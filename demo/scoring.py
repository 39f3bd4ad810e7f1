"""Trains single-site models and scores every model on every site's held-out notes, with the sites' own trainer.

`demo/orders.py` writes the orders, `demo/chains.py` has them carried out; here stands which, and what came of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from common.terms import Terms
from demo.chains import Chain, Link, run_chains
from demo.corpora import SiteCorpus, passages_to_score
from demo.options import DemoOptions
from demo.orders import RunOrders, write_order
from demo.processes import ProcessGroup
from site_agent.orders import UPDATE_FILE, BaseModelSource, EvaluateResult

FEW_SHOTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreKey:
    """One cell of the demo's table: which model, on whose notes."""

    model: str  # zero_shot, three_shot, federated, or single_site:<site>
    site: str


def chains_at_once(device: str) -> int:
    """One trainer a core; one alone on a GPU, whose memory is not to be shared out by luck.

    Raises:
        InputInvalidError: DEVICE_UNAVAILABLE.
    """
    from site_agent.trainer.training.base_model import choose_device  # torch, which takes seconds

    return 1 if choose_device(device).type == "cuda" else len(os.sched_getaffinity(0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorer:
    """Makes the orders and has them run.

    Attributes:
        federated: The adapter that the federation published (safetensors).
        at_once: Trainers beside each other.
    """

    options: DemoOptions
    terms: Terms
    corpora: Sequence[SiteCorpus]
    folder: Path
    federated: Path
    at_once: int

    def score(self, group: ProcessGroup, console: Console) -> Mapping[ScoreKey, EvaluateResult]:
        """Every model on every site's test notes.

        Raises:
            RuntimeError: a trainer failed; says why.
        """
        # The longest first, so that no core is left with one of them at the end.
        chains = [*(self._single_site(corpus) for corpus in self.corpora), self._federated(), *self._base_model()]
        run_chains(chains, self.at_once, group, console)
        scores = {}
        for link in (link for chain in chains for link in chain.links):
            result = link.result()
            if isinstance(result, EvaluateResult):
                site = link.folder.name.removeprefix("on-")
                scores[ScoreKey(model=link.folder.parent.name, site=site)] = result
        return scores

    def _single_site(self, corpus: SiteCorpus) -> Chain:
        """Round after round as in the federation, from the same first adapter and on the same sentences, but alone."""
        home = self.folder / f"single_site:{corpus.site}"
        links = [write_order(home / "first", f"{corpus.site} alone, first adapter", self._orders.initialise())]
        for round_number in range(1, self.terms.rounds.count + 1):
            says = f"{corpus.site} alone, round {round_number}"
            before = links[-1].folder / UPDATE_FILE
            order = self._orders.train(corpus, round_number)
            links.append(write_order(home / f"round-{round_number}", says, order, before))
        trained = links[-1].folder / UPDATE_FILE
        links.extend(self._evaluation(home, f"{corpus.site} alone", on, trained) for on in self.corpora)
        return Chain(folder=home, links=links)

    def _federated(self) -> Chain:
        home = self.folder / "federated"
        links = [self._evaluation(home, "federation", on, self.federated) for on in self.corpora]
        return Chain(folder=home, links=links)

    def _base_model(self) -> list[Chain]:
        zero, three = self.folder / "zero_shot", self.folder / "three_shot"
        links = [self._evaluation(zero, "zero-shot", on, None) for on in self.corpora]
        if self.options.with_three_shot:
            links += [self._evaluation(three, "3-shot", on, None, FEW_SHOTS) for on in self.corpora]
        return [Chain(folder=link.folder, links=[link]) for link in links]

    def _evaluation(self, home: Path, model: str, on: SiteCorpus, adapter: Path | None, shots: int = 0) -> Link:
        order = self._orders.score(on, passages_to_score(on.test, self.options.test_passages), shots)
        return write_order(home / f"on-{on.site}", f"{model} on the notes of {on.site}", order, adapter)

    @property
    def _orders(self) -> RunOrders:
        source = BaseModelSource(
            location=self.options.base_model, expected=self.terms.base_model, device=self.options.device, threads=1
        )
        return RunOrders(terms=self.terms, source=source)

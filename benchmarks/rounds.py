"""What rounds of Fed-MedLoRA learn, setting by setting: held-out loss, and how far the sites' factors drift apart.

The sites' own trainer and the coordinator's own rule, without the network between them: `demo` runs the whole system.
A setting is a learning rate of A and the ratio of B's to it (LoRA+). The *drift* is ||mean(B) mean(A) - mean(B A)||
over ||mean(B A)||, means by the weights of the rule, the median over the adapter's modules: what averaging factors
instead of products costs.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.machine import parser, write_figures
from common.adapter import A_SUFFIX, B_SUFFIX
from common.terms import Terms
from common.weights_io import WeightsReader, WeightsWriter
from coordinator.domain.aggregation import strategy_of
from coordinator.domain.aggregation.strategy import Contribution, Factors, Need
from demo.chains import Chain, Link, run_chains
from demo.corpora import SiteCorpus, corpora_of
from demo.options import parse_options
from demo.orders import RunOrders, write_order
from demo.prepare import demo_terms
from demo.processes import ProcessGroup, process_group
from demo.scoring import chains_at_once
from site_agent.orders import (
    UPDATE_FILE,
    BaseModelSource,
    EvaluateResult,
    InitialiseResult,
    Order,
    TrainResult,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """One setting: its orders, the folder they lie in, and what carries them out."""

    folder: Path
    orders: RunOrders
    corpora: Sequence[SiteCorpus]
    group: ProcessGroup
    console: Console
    test_passages: int

    @property
    def terms(self) -> Terms:
        """What the setting is."""
        return self.orders.terms

    def perform(self, orders: Mapping[str, Order], adapter: Path | None = None) -> dict[str, Link]:
        """Have all of them done from one adapter, as many beside each other as there are cores."""
        links = {name: write_order(self.folder / name, name, order, adapter) for name, order in orders.items()}
        chains = [Chain(folder=link.folder, links=[link]) for link in links.values()]
        run_chains(chains, chains_at_once(self.orders.source.device), self.group, self.console)
        return links

    def losses(self, name: str, adapter: Path) -> dict[str, float]:
        """Mean token loss in nats of an adapter on each site's held-out passages."""
        orders = {
            f"{name}-on-{corpus.site}": self.orders.measure_loss(corpus, self.test_passages) for corpus in self.corpora
        }
        links = self.perform(orders, adapter).values()
        return {corpus.site: _loss_of(link) for corpus, link in zip(self.corpora, links, strict=True)}


def _loss_of(link: Link) -> float:
    result = link.result()
    assert isinstance(result, EvaluateResult) and result.mean_loss is not None
    return result.mean_loss


def measure(bench: Bench, rounds: int) -> dict[str, object]:
    """The losses and the drift after each round of one setting."""
    first = bench.perform({"first": bench.orders.initialise()})["first"]
    initialised = first.result()
    assert isinstance(initialised, InitialiseResult)
    current, history = first.folder / UPDATE_FILE, []
    sites = sorted(bench.corpora, key=lambda one: one.site)  # as the coordinator has them
    for number in range(1, rounds + 1):
        orders = {f"round-{number}-{one.site}": bench.orders.train(one, number) for one in sites}
        links = list(bench.perform(orders, current).values())
        weights = _weights(bench.terms, links)
        candidate = bench.folder / f"candidate-{number}.safetensors"
        drift = _combine(bench.terms, initialised, (links, weights), current, candidate)
        current = candidate
        history.append({"round": number, "drift": drift, "losses": bench.losses(f"round-{number}-candidate", current)})
    training = bench.terms.training
    return {
        "learning_rate": training.learning_rate,
        "lora_plus_ratio": training.lora_plus_ratio,
        "rounds": history,
    }


def _weights(terms: Terms, links: Sequence[Link]) -> tuple[float, ...]:
    assert strategy_of(terms).needs == {Need.EQUAL_RANKS}, "nothing is scored or surveyed here"
    contributions = [
        Contribution(num_examples=one.num_examples, num_label_tokens=one.num_label_tokens)
        for one in (link.result() for link in links)
        if isinstance(one, TrainResult)
    ]
    return strategy_of(terms).weigh(contributions, geometry=None)


def _combine(
    terms: Terms,
    initialised: InitialiseResult,
    weighted: tuple[Sequence[Link], Sequence[float]],
    current: Path,
    out: Path,
) -> float:
    """Write the candidate; returns the drift."""
    spec, (links, weights), drifts = initialised.spec, weighted, []
    with ExitStack() as stack:
        updates = [stack.enter_context(WeightsReader(link.folder / UPDATE_FILE)) for link in links]
        before = stack.enter_context(WeightsReader(current))
        writer = stack.enter_context(WeightsWriter(out, spec.tensors, spec.dtype))
        for module in (name.removesuffix(A_SUFFIX) for name in spec.names[::2]):
            factors = [_factors(update, module) for update in updates]
            combined = strategy_of(terms).combine(factors, weights, _factors(before, module))
            product = sum(weight * (one.b @ one.a) for weight, one in zip(weights, factors, strict=True))
            drifts.append(float(np.linalg.norm(combined.b @ combined.a - product) / np.linalg.norm(product)))
            writer.write(module + A_SUFFIX, combined.a)
            writer.write(module + B_SUFFIX, combined.b)
    return median(drifts)


def _factors(reader: WeightsReader, module: str) -> Factors:
    return Factors(a=reader.tensor(module + A_SUFFIX), b=reader.tensor(module + B_SUFFIX))


def main() -> int:
    """Measure every setting, one after the other, on the demo's notes or on corpora."""
    options = parser(__doc__.splitlines()[0] if __doc__ else "")
    options.add_argument("--rates", type=float, nargs="+", default=[2.4e-3, 1.5e-4], help="learning rates of A")
    options.add_argument("--ratios", type=float, nargs="+", default=[1.0, 16.0], help="B's over A's, one for each rate")
    options.add_argument("--rounds", type=int, default=1)
    given, others = options.parse_known_args()
    demo, _ = parse_options(others)  # --data, --model, --sites, --examples, --test-passages, --seed, --device
    figures: list[dict[str, object]] = []
    console = Console()
    with tempfile.TemporaryDirectory() as name, process_group(Path(name) / "logs") as group:
        corpora = corpora_of(demo, Path(name) / "notes")
        terms = demo_terms(demo, [corpus.site for corpus in corpora])
        source = BaseModelSource(location=demo.base_model, expected=terms.base_model, device=demo.device, threads=1)
        for rate, ratio in itertools.zip_longest(given.rates, given.ratios, fillvalue=1.0):
            training = replace(terms.training, learning_rate=rate, lora_plus_ratio=ratio)
            bench = Bench(
                folder=Path(name) / f"setting-{len(figures)}",
                orders=RunOrders(terms=replace(terms, training=training), source=source),
                corpora=corpora,
                group=group,
                console=console,
                test_passages=demo.test_passages,
            )
            figures.append(measure(bench, given.rounds))
    _print(console, figures, [corpus.site for corpus in corpora])
    write_figures(given.json, figures)
    return 0


def _print(console: Console, figures: Sequence[Mapping[str, object]], sites: Sequence[str]) -> None:
    table = Table("rate of A", "B over A", "round", "drift", *(f"loss on {site}" for site in sites))
    for setting in figures:
        history = setting["rounds"]
        assert isinstance(history, list)
        for past in history:
            losses = [f"{past['losses'][site]:.3f}" for site in sites]
            head = f"{setting['learning_rate']:g}", f"{setting['lora_plus_ratio']:g}", str(past["round"])
            table.add_row(*head, f"{past['drift']:.3f}", *losses)
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())

"""The work as a Flower app: a ServerApp that writes down when rounds begin and end, and a ClientApp."""

from __future__ import annotations

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from peer_work import first_adapter, note, read_work

# One statement each: Flower looks for these names in the source.
server = ServerApp()
client = ClientApp()


class TimedFedAvg(FedAvg):
    """Flower's own strategy; the number is the one that every site raises by one."""

    def configure_train(self, server_round: int, arrays: ArrayRecord, *others: Any, **named: Any) -> Any:
        """Note that the round begins."""
        note("began", server_round)
        return super().configure_train(server_round, arrays, *others, **named)

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        """Note that the aggregate is there."""
        arrays, metrics = super().aggregate_train(server_round, replies)
        note("aggregated", float(next(iter(arrays.values())).numpy().flat[0]) if arrays else float("nan"))
        return arrays, metrics


@server.main()
def run_rounds(grid: Grid, _context: Context) -> None:
    """Begin with the first adapter."""
    work = read_work()
    arrays = ArrayRecord()
    for name, values in first_adapter():
        arrays[name] = Array(values)
    sites = work["sites"]
    strategy = TimedFedAvg(fraction_evaluate=0.0, min_train_nodes=sites, min_available_nodes=sites)
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=work["rounds"])


@client.train()
def change_every_tensor(message: Message, _context: Context) -> Message:
    """Return the adapter with one number of every tensor changed, as training changes all: none is sent by its hash."""
    generator = np.random.default_rng()
    arrays = message.content["arrays"]
    for index, name in enumerate(list(arrays)):
        values = arrays[name].numpy().copy()
        values.flat[0] += 1.0 if index == 0 else generator.standard_normal()
        arrays[name] = Array(values)
    metrics = MetricRecord({"num-examples": 100})
    return Message(content=RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

"""The work as custom code of an NVIDIA FLARE job: a FedAvg that writes down its rounds, and an executor."""

from __future__ import annotations

from typing import Any

import numpy as np
from nvflare.apis.dxo import DXO, DataKind, MetaKey, from_shareable
from nvflare.apis.executor import Executor
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.apis.signal import Signal
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.app_event_type import AppEventType
from nvflare.app_common.workflows.fedavg import FedAvg
from peer_work import first_adapter, note


class TimedFedAvg(FedAvg):
    """FLARE's own workflow; the number is the one that every site raises by one. Saves no model."""

    def load_model(self) -> FLModel:
        """Begin with the first adapter."""
        return FLModel(params=dict(first_adapter()))

    def save_model(self, model: FLModel) -> None:
        """Not part of the work."""

    def event(self, event_type: str) -> None:
        """Note that a round begins."""
        if event_type == AppEventType.ROUND_STARTED:
            note("began", self.current_round)
        super().event(event_type)

    def fire_event_with_data(self, event_type: str, fl_ctx: FLContext, key: str, data: Any, **named: Any) -> None:
        """Note that the aggregate is there."""
        if event_type == AppEventType.AFTER_AGGREGATION and key == AppConstants.AGGREGATION_RESULT:
            note("aggregated", float(next(iter(data.params.values())).flat[0]))
        super().fire_event_with_data(event_type, fl_ctx, key, data, **named)


class EveryTensor(Executor):
    """Returns the adapter with one number of every tensor changed."""

    def execute(self, task_name: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Signal) -> Shareable:
        """Perform a task, whatever its name."""
        params = from_shareable(shareable).data
        generator = np.random.default_rng()
        for index, values in enumerate(params.values()):
            values.flat[0] += 1.0 if index == 0 else generator.standard_normal()
        return DXO(DataKind.WEIGHTS, data=params, meta={MetaKey.NUM_STEPS_CURRENT_ROUND: 100}).to_shareable()

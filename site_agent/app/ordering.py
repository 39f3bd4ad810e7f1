"""From an assignment and the site's own settings to the order its trainer gets. Pure; it writes no file."""

from __future__ import annotations

from dataclasses import dataclass, replace

from common.terms import GateMetric, Task
from site_agent.domain.assignment import Assignment, EvaluateWork, InitialiseWork, ScoreWork, TrainWork
from site_agent.orders import BaseModelSource, EvaluateOrder, FileShare, InitialiseOrder, TrainOrder

_NOT_DECODED = (GateMetric.NONE, GateMetric.LOSS)


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalSettings:
    """What only the site decides: where its base model and its notes lie, and on which device it works.

    Attributes:
        threads: CPU threads for torch; 0 leaves torch's default.
        checkpoint_seconds: How often training writes down where it stands.
        tasks: What the site trains of a run's tasks.
        shares: What it trains of each of ``train_files``, where that differs from file to file.
        test_files: Of which no text may be in ``validation_files``.
        gpu_share: Of the device that the trainer may use: of a GPU's memory, or of a CPU's cores.
    """

    base_model_location: str
    device: str
    threads: int
    train_files: tuple[str, ...]
    validation_files: tuple[str, ...]
    validation_passages: int = 0
    checkpoint_seconds: float = 300.0
    tasks: tuple[Task, ...] = tuple(Task)
    shares: tuple[FileShare, ...] = ()
    test_files: tuple[str, ...] = ()
    gpu_share: float = 1.0


def order_for(assignment: Assignment, local: LocalSettings) -> InitialiseOrder | TrainOrder | EvaluateOrder:
    """The order for ``assignment``; the same assignment gives the same order."""
    terms = assignment.terms
    base_model = BaseModelSource(
        location=local.base_model_location,
        expected=terms.base_model,
        device=local.device,
        threads=local.threads,
        gpu_share=local.gpu_share,
    )
    match assignment.work:
        case InitialiseWork():
            return InitialiseOrder(
                base_model=base_model,
                lora=terms.lora,
                seed=terms.training.seed,
                wire_dtype=terms.aggregation.wire_dtype,
            )
        case TrainWork(trained=trained, uploaded=uploaded, side=side, own=own) as work:
            return TrainOrder(
                base_model=base_model,
                lora=replace(terms.lora, lora_rank=work.adapter_spec.lora_rank, least_lora_rank=0),
                task=terms.task,
                training=terms.training,
                data_files=local.train_files,
                trained=trained,
                uploaded=uploaded,
                round_number=assignment.round_number,
                seed=terms.training.seed,
                wire_dtype=terms.aggregation.wire_dtype,
                own=own,
                side_lora_rank=0 if side is None else side[1].lora_rank,
                checkpoint_seconds=local.checkpoint_seconds,
                tasks=local.tasks,
                shares=local.shares,
            )
        case ScoreWork() | EvaluateWork() as work:
            return EvaluateOrder(
                base_model=base_model,
                lora=replace(terms.lora, lora_rank=work.adapter_spec.lora_rank, least_lora_rank=0),
                task=terms.task,
                training=terms.training,
                data_files=local.validation_files,
                max_passages=local.validation_passages,
                generate=isinstance(work, EvaluateWork) and terms.gate.metric not in _NOT_DECODED,
                seed=terms.training.seed,
                test_files=local.test_files,
                test_digest=terms.gate.test_digest,
            )

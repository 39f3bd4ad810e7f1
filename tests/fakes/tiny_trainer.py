"""A trainer without torch: ``python tiny_trainer.py FAULT ORDER_FOLDER``, the fault often `none`. It reads no note.

It speaks the files of `site_agent/orders.py`, adds a fixed number to the factors it trains, and notes each start in
``trainer_starts`` of the state folder, so that tests can count how often it was started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from common.adapter import A_SUFFIX, AdapterSpec, TensorSpec, WireDtype
from common.files import write_whole
from common.weights_io import WeightsReader, write_weights
from site_agent.orders import (
    ADAPTER_FILE,
    FAILURE,
    FAILURE_FILE,
    ORDER,
    ORDER_FILE,
    OWN_FILE,
    PERSONAL_FILE,
    PROGRESS,
    PROGRESS_FILE,
    RESULT,
    RESULT_FILE,
    STOP_FILE,
    UPDATE_FILE,
    EvaluateOrder,
    EvaluateResult,
    F1Counts,
    Failure,
    FailureReason,
    InitialiseOrder,
    InitialiseResult,
    Progress,
    TrainerStage,
    TrainOrder,
    TrainResult,
)

STEP = 0.5
NUM_EXAMPLES, NUM_LABEL_TOKENS, NUM_LEFT_OUT = 12, 345, 2
PID_FILE, GRANDCHILD_FILE, GO_ON_FILE = "trainer.pid", "grandchild.pid", "go-on"
_BF16_NAN = b"\xc0\x7f"


def main() -> None:
    """Perform the order, or fail as told."""
    fault, folder = sys.argv[1], Path(sys.argv[2])
    with (folder.parents[1] / "trainer_starts").open("a") as starts:
        starts.write(folder.name + "\n")
    progress = Progress(stage=TrainerStage.TRAINING, step=1, steps=2, loss=1.5, tokens_per_second=100.0)
    write_whole(folder / PROGRESS_FILE, PROGRESS.dump_json(progress))
    print("the trainer's own words")
    if fault in _FAULTS:
        _FAULTS[fault](folder)
    result = perform(folder)
    if fault == "nan":
        _spoil(folder / UPDATE_FILE)
    write_whole(folder / RESULT_FILE, RESULT.dump_json(result))


def perform(
    folder: Path, step: float = STEP, num_label_tokens: int = NUM_LABEL_TOKENS
) -> InitialiseResult | TrainResult | EvaluateResult:
    """Do the order in ``folder``, all but write its result: train by ``step``, on so many tokens."""
    order = ORDER.validate_json((folder / ORDER_FILE).read_bytes())
    match order:
        case InitialiseOrder():
            return InitialiseResult(spec=_initialise(order, folder))
        case TrainOrder():
            _train(order, folder, step)
            return TrainResult(
                num_examples=NUM_EXAMPLES,
                num_label_tokens=num_label_tokens,
                mean_loss=1.25,
                steps=2,
                seconds=0.1,
                tokens_per_second=100.0,
                padding_share=0.0,
                peak_memory_bytes=1,
                num_left_out=NUM_LEFT_OUT,
            )
        case EvaluateOrder():
            counts = F1Counts(true_positives=3, predicted=4, gold=5)
            return EvaluateResult(
                mean_loss=0.75,
                num_label_tokens=NUM_LABEL_TOKENS,
                num_examples=NUM_EXAMPLES,
                num_passages=6,
                strict=counts,
                lenient=counts,
            )


def _initialise(order: InitialiseOrder, folder: Path) -> AdapterSpec:
    shapes = {A_SUFFIX: (order.lora.lora_rank, 6), ".lora_B.weight": (6, order.lora.lora_rank)}
    weights = {
        f"base_model.model.{module}{suffix}": np.full(shape, 0.25 if suffix == A_SUFFIX else 0.0, np.float32)
        for module in order.lora.target_modules
        for suffix, shape in shapes.items()
    }
    write_weights(folder / UPDATE_FILE, weights, WireDtype(order.wire_dtype))
    return AdapterSpec(
        lora_rank=order.lora.lora_rank,
        lora_alpha=order.lora.lora_alpha,
        target_modules=order.lora.target_modules,
        dtype=WireDtype(order.wire_dtype),
        tensors=tuple(TensorSpec(name=name, shape=weights[name].shape) for name in sorted(weights)),
    )


def _train(order: TrainOrder, folder: Path, step: float) -> None:
    """The update holds the uploaded factors, each number of a trained one raised by ``step``."""
    with WeightsReader(folder / ADAPTER_FILE) as reader:
        start = {slot.name: reader.tensor(slot.name) for slot in reader.layout.tensors}
    if (folder / OWN_FILE).exists():
        with WeightsReader(folder / OWN_FILE) as reader:
            start |= {slot.name: reader.tensor(slot.name) for slot in reader.layout.tensors}
    weights = {name: values + np.float32(step) for name, values in start.items()}
    wanted = {
        "a_and_b": weights,
        "a_only": {name: value for name, value in weights.items() if name.endswith(A_SUFFIX)},
        "b_only": {name: value for name, value in weights.items() if not name.endswith(A_SUFFIX)},
    }
    write_weights(folder / UPDATE_FILE, wanted[order.uploaded], WireDtype(order.wire_dtype))
    if order.own is not None:
        write_weights(folder / PERSONAL_FILE, wanted[order.own], WireDtype.F32)


def _crash(_folder: Path) -> None:
    sys.exit(3)


def _killed(_folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _killed_once(folder: Path) -> None:
    if len((folder.parents[1] / "trainer_starts").read_text().splitlines()) == 1:
        _killed(folder)


def _says_oom(folder: Path) -> None:
    failure = Failure(reason=FailureReason.OUT_OF_MEMORY, detail="expected it to fit", error_id="0")
    write_whole(folder / FAILURE_FILE, FAILURE.dump_json(failure))
    sys.exit(1)


def _hang(folder: Path) -> None:
    """Never end, and have a child that does not either."""
    child = subprocess.Popen(["sleep", "600"])
    write_whole(folder.parents[1] / GRANDCHILD_FILE, str(child.pid).encode())
    write_whole(folder.parents[1] / PID_FILE, str(os.getpid()).encode())
    signal.pause()


def _hang_once(folder: Path) -> None:
    if not (folder.parents[1] / PID_FILE).exists():
        _hang(folder)


def _heeds_once(folder: Path) -> None:
    """Wait to be asked to stop, and end as the real trainer does; later it works."""
    marked = folder.parents[1] / PID_FILE
    if marked.exists():
        return
    write_whole(marked, str(os.getpid()).encode())
    while not (folder / STOP_FILE).exists():
        time.sleep(0.01)
    sys.exit(3)


def _waits(folder: Path) -> None:
    """Go on when a test says so: it may want to see what was reported until then."""
    while not (folder.parents[1] / GO_ON_FILE).exists():
        time.sleep(0.01)


def _spoil(path: Path) -> None:
    """Make the last number of the update NaN."""
    content = path.read_bytes()
    path.write_bytes(content[: -len(_BF16_NAN)] + _BF16_NAN)


_FAULTS = {
    "crash": _crash,
    "killed": _killed,
    "killed_once": _killed_once,
    "says_oom": _says_oom,
    "hang": _hang,
    "hang_once": _hang_once,
    "heeds_once": _heeds_once,
    "waits": _waits,
}

if __name__ == "__main__":
    main()

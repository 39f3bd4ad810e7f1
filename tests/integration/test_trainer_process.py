"""The trainer as the agent runs it: a child process with an order folder, and without a network."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from common.adapter import FactorSet, check_spec
from common.ids import digest_of
from common.terms import LoraTerms, Quantization, TaskTerms, TrainingTerms
from common.weights_io import WeightsReader, check_update
from site_agent.orders import (
    ADAPTER_FILE,
    FAILURE,
    FAILURE_FILE,
    ORDER,
    ORDER_FILE,
    PROGRESS,
    PROGRESS_FILE,
    RESULT,
    RESULT_FILE,
    UPDATE_FILE,
    BaseModelSource,
    EvaluateOrder,
    EvaluateResult,
    Failure,
    FailureReason,
    InitialiseOrder,
    InitialiseResult,
    TrainerStage,
    TrainOrder,
    TrainResult,
)
from site_agent.trainer.base_model_files import describe_base_model
from site_agent.trainer.extraction.scoring import add_counts, f1
from site_agent.trainer.runner import run_order
from site_agent.trainer.training import perform
from tests.tiny_model import TINY_TARGET_MODULES, make_tiny_model, write_passages

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
LORA = LoraTerms(lora_rank=4, lora_alpha=8, target_modules=TINY_TARGET_MODULES)
TASK = TaskTerms(entity_types=("drug", "problem"), max_new_tokens=8)
TRAINING = TrainingTerms(learning_rate=1e-2, examples_per_round=16)
SECRET = "zyxwvutin"

# Every process that can see it refuses to open a socket, before anything else runs.
NO_SOCKETS = """
import socket
class Refused(socket.socket):
    def __init__(self, *args, **kwargs):
        raise RuntimeError("this process may not open a socket")
socket.socket = Refused
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseModelSource:
    folder = make_tiny_model(tmp_path_factory.mktemp("tiny"))
    return BaseModelSource(location=str(folder), expected=describe_base_model(folder, "tiny"), device="cpu", threads=1)


@pytest.fixture(scope="module")
def no_sockets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    (folder / "sitecustomize.py").write_text(NO_SOCKETS)
    return folder


@pytest.fixture(scope="module")
def first(base: BaseModelSource, no_sockets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an INITIALISE order that was performed."""
    folder = write_order(tmp_path_factory.mktemp("first"), initialise(base))
    assert run(no_sockets, folder).returncode == 0
    return folder


def initialise(base: BaseModelSource) -> InitialiseOrder:
    return InitialiseOrder(base_model=base, lora=LORA, seed=1, wire_dtype="bf16")


def train(base: BaseModelSource, *data_files: Path) -> TrainOrder:
    return TrainOrder(
        base_model=base,
        lora=LORA,
        task=TASK,
        training=TRAINING,
        data_files=tuple(map(str, data_files)),
        trained=FactorSet.A_AND_B,
        uploaded=FactorSet.A_AND_B,
        round_number=1,
        seed=1,
        wire_dtype="bf16",
    )


def evaluate(base: BaseModelSource, *data_files: Path) -> EvaluateOrder:
    files = tuple(map(str, data_files))
    return EvaluateOrder(base_model=base, lora=LORA, task=TASK, training=TRAINING, data_files=files, max_passages=5)


def write_order(folder: Path, order: InitialiseOrder | TrainOrder | EvaluateOrder, adapter: Path | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / ORDER_FILE).write_bytes(ORDER.dump_json(order))
    if adapter is not None:
        (folder / ADAPTER_FILE).write_bytes((adapter / UPDATE_FILE).read_bytes())
    return folder


def run(no_sockets: Path, *folders: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    path = os.pathsep.join([str(no_sockets), str(ROOT)])
    return subprocess.run(
        [sys.executable, "-m", "site_agent.trainer", *map(str, folders)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **environment},
        cwd=no_sockets,
        capture_output=True,
        check=False,
        timeout=600,
    )


def failure_in(folder: Path) -> Failure:
    assert not (folder / RESULT_FILE).exists()
    return FAILURE.validate_json((folder / FAILURE_FILE).read_bytes())


def test_the_process_of_these_tests_really_cannot_open_a_socket(no_sockets: Path) -> None:
    code = "import socket; socket.create_connection(('127.0.0.1', 9))"
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(no_sockets)}
    child = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert b"may not open a socket" in child.stderr


def test_initialise_writes_the_first_adapter_and_says_its_shape(first: Path) -> None:
    result = RESULT.validate_json((first / RESULT_FILE).read_bytes())
    assert isinstance(result, InitialiseResult)
    with WeightsReader(first / UPDATE_FILE) as reader:
        check_update(reader, check_spec(result.spec).tensors, result.spec.dtype)
        assert not any(reader.tensor(name).any() for name in result.spec.names if "lora_B" in name)


def test_initialise_twice_gives_the_same_file(
    base: BaseModelSource, no_sockets: Path, first: Path, tmp_path: Path
) -> None:
    again = write_order(tmp_path / "again", initialise(base))
    assert run(no_sockets, again).returncode == 0
    assert (again / UPDATE_FILE).read_bytes() == (first / UPDATE_FILE).read_bytes()


@pytest.fixture(scope="module")
def chain(base: BaseModelSource, no_sockets: Path, first: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a TRAIN order over two files and five EVALUATE orders, performed by one process."""
    home = tmp_path_factory.mktemp("chain")
    files = [write_passages(home / f"{word}.jsonl", 10, word=word) for word in ("aspirin", "ibuprofen")]
    others = [home / "q.jsonl", home / "r.jsonl"]
    for other in others:  # an id comes once in all files
        other.write_text(files[1].read_text().replace('"id": "p', f'"id": "{other.stem}'))
    write_order(home / "train", train(base, files[0], others[0]), first)
    write_order(home / "bare", evaluate(base, files[0]))
    write_order(home / "adapted", evaluate(base, files[0]))
    write_order(home / "entities", replace(evaluate(base, files[0]), measure_loss=False))
    write_order(home / "shared", replace(evaluate(base, files[0], *others), max_passages=2, generate=False))
    told = replace(evaluate(base, files[0], others[0]), max_passages=5, measure_loss=False, tell_documents=True)
    write_order(home / "documents", told, first)
    (home / "adapted" / ADAPTER_FILE).symlink_to(home / "train" / UPDATE_FILE)
    done = run(no_sockets, *(home / name for name in ("train", "bare", "adapted", "entities", "shared", "documents")))
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    return home


def test_training_counts_the_examples_and_label_tokens_of_the_round(chain: Path) -> None:
    result = RESULT.validate_json((chain / "train" / RESULT_FILE).read_bytes())
    assert isinstance(result, TrainResult)
    assert result.num_examples == 16
    assert result.num_label_tokens > 16
    assert result.num_left_out == 0
    assert result.steps == 4


def test_training_writes_an_update_of_the_adapters_shape_that_differs_from_it(chain: Path, first: Path) -> None:
    initial = RESULT.validate_json((first / RESULT_FILE).read_bytes())
    assert isinstance(initial, InitialiseResult)
    with WeightsReader(chain / "train" / UPDATE_FILE) as reader:
        check_update(reader, initial.spec.tensors, initial.spec.dtype)
        assert all(reader.tensor(name).any() for name in initial.spec.names)


def test_progress_ends_with_the_last_stage(chain: Path) -> None:
    progress = PROGRESS.validate_json((chain / "train" / PROGRESS_FILE).read_bytes())
    assert (progress.stage, progress.step, progress.steps) == (TrainerStage.WRITING, 4, 4)


def test_an_evaluation_without_an_adapter_scores_the_bare_model(chain: Path) -> None:
    bare = RESULT.validate_json((chain / "bare" / RESULT_FILE).read_bytes())
    adapted = RESULT.validate_json((chain / "adapted" / RESULT_FILE).read_bytes())
    assert isinstance(bare, EvaluateResult)
    assert isinstance(adapted, EvaluateResult)
    assert bare.num_passages == adapted.num_passages == 5
    assert bare.strict is not None
    assert bare.strict.gold == 10
    assert {one.entity_type for one in bare.per_type} == {"drug", "problem"}
    assert bare.strict_interval is not None
    assert bare.strict_interval.low <= f1(bare.strict) <= bare.strict_interval.high
    assert bare.mean_loss is not None and adapted.mean_loss is not None
    assert adapted.mean_loss < bare.mean_loss


def test_an_evaluation_may_score_entities_without_measuring_the_loss(chain: Path) -> None:
    bare = RESULT.validate_json((chain / "bare" / RESULT_FILE).read_bytes())
    scored = RESULT.validate_json((chain / "entities" / RESULT_FILE).read_bytes())
    assert isinstance(bare, EvaluateResult)
    assert isinstance(scored, EvaluateResult)
    assert replace(scored, mean_loss=bare.mean_loss, seconds=bare.seconds, tasks=bare.tasks) == bare
    assert scored.mean_loss is scored.tasks[0].mean_loss is None
    progress = PROGRESS.validate_json((chain / "entities" / PROGRESS_FILE).read_bytes())
    assert (progress.step, progress.steps) == (10, 10)


def test_an_evaluation_tells_the_counts_of_each_document_and_its_file_when_asked(chain: Path) -> None:
    silent = RESULT.validate_json((chain / "entities" / RESULT_FILE).read_bytes())
    told = RESULT.validate_json((chain / "documents" / RESULT_FILE).read_bytes())
    assert isinstance(silent, EvaluateResult)
    assert isinstance(told, EvaluateResult)
    assert silent.documents == ()
    assert [one.file for one in told.documents] == [0, 0, 0, 1, 1]
    assert told.strict == add_counts(one.strict for one in told.documents)
    assert told.lenient == add_counts(one.lenient for one in told.documents)
    assert told.strict_agnostic == add_counts(one.strict_agnostic for one in told.documents if one.strict_agnostic)
    (scores,) = told.tasks
    assert [one.file for one in scores.files] == [0, 1]
    assert sum(one.answers for one in scores.files) == told.num_examples
    assert sum(one.malformed_answers for one in scores.files) == told.malformed_answers
    for name in ("drug", "problem"):
        by_file = [kind.strict for one in scores.files for kind in one.per_type if kind.entity_type == name]
        assert add_counts(by_file) == next(kind.strict for kind in told.per_type if kind.entity_type == name)


def test_no_more_passages_are_scored_than_the_order_says_however_many_files_there_are(chain: Path) -> None:
    result = RESULT.validate_json((chain / "shared" / RESULT_FILE).read_bytes())
    assert isinstance(result, EvaluateResult)
    assert result.num_passages == 2
    assert result.strict is None


def test_a_folder_behind_a_failure_is_not_worked_on(base: BaseModelSource, no_sockets: Path, tmp_path: Path) -> None:
    broken, good = tmp_path / "broken", write_order(tmp_path / "good", initialise(base))
    broken.mkdir()
    assert run(no_sockets, broken, good).returncode == 1
    assert not (good / RESULT_FILE).exists()


def test_another_base_model_than_the_terms_name_is_a_failure_before_torch_is_loaded(
    base: BaseModelSource, no_sockets: Path, tmp_path: Path
) -> None:
    expected = replace(base.expected, weights_digest=digest_of(b"another"))
    folder = write_order(tmp_path / "order", initialise(replace(base, expected=expected)))
    (tmp_path / "torch.py").write_text("raise SystemExit(77)")
    assert run(no_sockets, folder, PYTHONPATH=os.pathsep.join([str(tmp_path), str(ROOT)])).returncode == 1
    assert failure_in(folder).reason is FailureReason.BASE_MODEL_MISMATCH


def test_a_malformed_record_is_a_failure_that_names_line_and_field_and_no_text(
    base: BaseModelSource, first: Path, tmp_path: Path
) -> None:
    notes = write_passages(tmp_path / "notes.jsonl", 3, word=SECRET)
    notes.write_text(notes.read_text().replace('"start": 0', '"start": 2', 1))
    folder = write_order(tmp_path / "order", train(base, notes), first)
    assert run_order(folder) == 1
    failure = failure_in(folder)
    assert failure.reason is FailureReason.NOTES_INVALID
    assert "line 1" in failure.detail
    assert SECRET not in failure.detail


def test_notes_without_a_sentence_short_enough_are_too_few(base: BaseModelSource, first: Path, tmp_path: Path) -> None:
    order = train(base, write_passages(tmp_path / "notes.jsonl", 3))
    folder = write_order(tmp_path / "order", replace(order, training=replace(TRAINING, max_length=20)), first)
    assert run_order(folder) == 1
    assert failure_in(folder).reason is FailureReason.NOTES_TOO_FEW


def test_nf4_without_bitsandbytes_is_a_failure_that_says_so(
    base: BaseModelSource, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    training = replace(TRAINING, quantization=Quantization.NF4)
    order = replace(train(base, write_passages(tmp_path / "notes.jsonl", 3)), training=training)
    folder = write_order(tmp_path / "order", order, first)
    assert run_order(folder) == 1
    failure = failure_in(folder)
    assert failure.reason is FailureReason.SETTINGS_UNSUPPORTED
    assert "bitsandbytes" in failure.detail


def test_a_device_that_is_not_there_is_a_failure_of_its_own(base: BaseModelSource, first: Path, tmp_path: Path) -> None:
    order = train(replace(base, device="cuda:99"), write_passages(tmp_path / "notes.jsonl", 3))
    folder = write_order(tmp_path / "order", order, first)
    assert run_order(folder) == 1
    assert failure_in(folder).reason is FailureReason.DEVICE_UNAVAILABLE


def test_running_out_of_memory_is_a_failure_of_its_own(
    base: BaseModelSource, first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(perform, "train", lambda *_: torch.empty(2**60))
    folder = write_order(tmp_path / "order", train(base, write_passages(tmp_path / "notes.jsonl", 3)), first)
    assert run_order(folder) == 1
    assert failure_in(folder).reason is FailureReason.OUT_OF_MEMORY


@pytest.fixture
def quoting(tmp_path: Path) -> str:
    """PYTHONPATH with a library that quotes what it was given, as libraries do."""
    (tmp_path / "sitecustomize.py").write_text(
        NO_SOCKETS
        + "import json\n"
        + "def loads(text, **options):\n    raise LookupError(text)\n"
        + "import site_agent.trainer.extraction.passage_records as records\n"
        + "records.json = type('Json', (), {'loads': staticmethod(loads)})\n"
    )
    return os.pathsep.join([str(tmp_path), str(ROOT)])


def test_a_crash_is_told_by_type_and_frames_and_never_by_its_message(
    base: BaseModelSource, no_sockets: Path, first: Path, tmp_path: Path, quoting: str
) -> None:
    notes = write_passages(tmp_path / "notes.jsonl", 3, word=SECRET)
    folder = write_order(tmp_path / "order", train(base, notes), first)
    done = run(no_sockets, folder, PYTHONPATH=quoting)
    failure = failure_in(folder)
    assert failure.reason is FailureReason.TRAINER_CRASHED
    assert failure.error_id.encode() in done.stderr
    assert b"LookupError" in done.stderr
    assert b"passage_files.py" in done.stderr or b"passage_records.py" in done.stderr
    written = done.stdout + done.stderr + b"".join(path.read_bytes() for path in folder.iterdir())
    assert SECRET.encode() not in written


def test_a_crash_that_cannot_be_written_down_is_not_quoted_either(
    base: BaseModelSource, no_sockets: Path, first: Path, tmp_path: Path, quoting: str
) -> None:
    folder = write_order(
        tmp_path / "order", train(base, write_passages(tmp_path / "notes.jsonl", 3, word=SECRET)), first
    )
    (folder / FAILURE_FILE).mkdir()
    done = run(no_sockets, folder, PYTHONPATH=quoting)
    assert done.returncode == 1
    assert b"IsADirectoryError" in done.stderr
    assert SECRET.encode() not in done.stderr


def test_a_crash_while_notes_are_checked_is_not_quoted(no_sockets: Path, tmp_path: Path, quoting: str) -> None:
    notes = write_passages(tmp_path / "notes.jsonl", 3, word=SECRET)
    done = subprocess.run(
        [sys.executable, "-m", "site_agent.trainer.check_notes", str(notes)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": quoting},
        cwd=no_sockets,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"LookupError" in done.stderr
    assert SECRET.encode() not in done.stderr


def test_without_an_order_folder_the_usage_is_told(no_sockets: Path) -> None:
    done = run(no_sockets)
    assert done.returncode == 2
    assert b"usage" in done.stderr


@pytest.mark.parametrize("limit", ["0", "1", '"$(ulimit -H -c)"'])
def test_the_kernel_writes_no_core_file_of_a_trainer_whatever_the_machine_allows(no_sockets: Path, limit: str) -> None:
    code = (
        "import resource; from site_agent.trainer.quiet import quiet_libraries; quiet_libraries();"
        "print(*resource.getrlimit(resource.RLIMIT_CORE))"
    )
    child = subprocess.run(
        ["sh", "-c", f'ulimit -c {limit}; exec "$@"', "sh", sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)},
        cwd=no_sockets,
        capture_output=True,
        check=True,
    )
    assert set(map(int, child.stdout.split())) <= {0, 1}

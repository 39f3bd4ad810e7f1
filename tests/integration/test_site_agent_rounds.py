"""An agent, its trainer's process and a coordinator over real mutual TLS: each kind of assignment, and every fault."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import structlog

from common.adapter import AdapterSpec
from common.chunks import MAX_CHUNK_BYTES
from common.errors import Reason
from common.ids import digest_of
from common.logging import configure_logging
from common.rpc_errors import reason_to_proto
from common.tls import Identity, Role, load_identity
from common.weights_io import WeightsReader, write_weights
from fedmedlora.v1 import rounds_pb2
from site_agent.adapters.trainer_process import MAX_STARTS
from tests.fakes.coordinator import CoordinatorState, file_ref, make_offer, serving, train_work
from tests.fakes.site import FakeSite, has_ended, until, wait_for_file
from tests.fakes.site_values import make_spec, make_terms
from tests.fakes.tiny_trainer import GRANDCHILD_FILE, NUM_EXAMPLES, NUM_LABEL_TOKENS, NUM_LEFT_OUT, PID_FILE, STEP
from tests.running import Consortium, free_port, make_consortium

# Three chunks of the wire.
WIDE = 300_000


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return make_consortium(tmp_path_factory.mktemp("consortium"))


@pytest.fixture
def identity(consortium: Consortium) -> Identity:
    return load_identity(consortium.identity("coordinator", Role.COORDINATOR))


@pytest.fixture
def site(tmp_path: Path, consortium: Consortium) -> FakeSite:
    return FakeSite(state_folder=tmp_path / "state", consortium=consortium)


class Log:
    """What the agent logs; every field must be on the allow-list."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def lines(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    @property
    def events(self) -> list[object]:
        return [line["event"] for line in self.lines]


@pytest.fixture(autouse=True)
def log(monkeypatch: pytest.MonkeyPatch) -> Iterator[Log]:
    written = Log()
    monkeypatch.setattr(sys, "stderr", written.stream)
    configure_logging(strict=True)
    yield written
    structlog.reset_defaults()


def make_adapter(tmp_path: Path, width: int = 6) -> tuple[AdapterSpec, bytes]:
    """An adapter and its file's content."""
    spec = make_spec(width)
    path = tmp_path / "global.safetensors"
    write_weights(path, {tensor.name: np.ones(tensor.shape, np.float32) for tensor in spec.tensors}, spec.dtype)
    return spec, path.read_bytes()


async def offer_training(state: CoordinatorState, tmp_path: Path, width: int = 6, number: int = 1) -> str:
    """Put an adapter and a TRAIN assignment for it at the coordinator; returns the assignment's id."""
    spec, content = make_adapter(tmp_path, width)
    state.files[digest_of(content)] = content
    return await state.offer(make_offer(number, make_terms(), train=train_work(spec, content)))


async def test_a_train_assignment_brings_an_update_with_its_counts(
    site: FakeSite, identity: Identity, tmp_path: Path, log: Log
) -> None:
    state = CoordinatorState()
    assignment_id = await offer_training(state, tmp_path)
    async with serving(state, identity) as port, site.agent(port):
        await state.until(lambda: assignment_id in state.accepted and "" in state.polls[-1:])
    header = state.accepted[assignment_id]
    assert (header.trained.num_examples, header.trained.num_label_tokens) == (NUM_EXAMPLES, NUM_LABEL_TOKENS)
    assert header.trained.base_digest in state.files
    update = tmp_path / "update.safetensors"
    update.write_bytes(bytes(state.received[assignment_id]))
    with WeightsReader(update) as reader:
        assert all((reader.tensor(slot.name) == 1 + STEP).all() for slot in reader.layout.tensors)
    assert log.events == [
        "coordinator_reached",
        "assignment_received",
        "assignment_taken",
        "trainer_started",
        "trainer_finished",
        "answer_accepted",
    ]
    finished = log.lines[log.events.index("trainer_finished")]
    assert (finished["num_examples"], finished["num_left_out"]) == (NUM_EXAMPLES, NUM_LEFT_OUT)


async def test_an_initialise_assignment_brings_the_first_adapter(site: FakeSite, identity: Identity) -> None:
    state = CoordinatorState()
    async with serving(state, identity) as port, site.agent(port):
        assignment_id = await state.offer(make_offer(0, make_terms(), initialise=rounds_pb2.InitialiseWork()))
        await state.until(lambda: assignment_id in state.accepted)
    assert state.accepted[assignment_id].first.spec.lora_rank == make_terms().lora.lora_rank


async def test_an_evaluate_assignment_brings_scores(site: FakeSite, identity: Identity, tmp_path: Path) -> None:
    state = CoordinatorState()
    spec, content = make_adapter(tmp_path)
    state.files[digest_of(content)] = content
    work = rounds_pb2.EvaluateWork(
        candidate=file_ref(spec, content), adapter_spec=train_work(spec, content).adapter_spec
    )
    async with serving(state, identity) as port, site.agent(port):
        assignment_id = await state.offer(make_offer(1, make_terms(), evaluate=work))
        await state.until(lambda: assignment_id in state.scores)
    scores = state.scores[assignment_id]
    assert (scores.mean_loss, scores.num_examples, scores.strict.true_positives) == (0.75, NUM_EXAMPLES, 3)


async def test_progress_is_relayed_while_the_trainer_works(site: FakeSite, identity: Identity, tmp_path: Path) -> None:
    state = CoordinatorState()
    assignment_id = await offer_training(state, tmp_path)
    async with serving(state, identity) as port, site.agent(port, fault="hang"):
        await state.until(lambda: state.progress)
    report = state.progress[0]
    assert (report.assignment_id, report.step, report.steps, report.loss) == (assignment_id, 1, 2, 1.5)


async def test_the_poll_names_the_assignment_while_it_is_worked_on(
    site: FakeSite, identity: Identity, tmp_path: Path
) -> None:
    state = CoordinatorState()
    assignment_id = await offer_training(state, tmp_path)
    async with serving(state, identity) as port, site.agent(port, fault="hang"):
        await state.until(lambda: state.polls.count(assignment_id) >= 2)
    assert state.polls[0] == "", "nothing is worked on before the first answer"
    assert set(state.polls[1:]) == {assignment_id}


async def test_a_cancel_kills_the_trainer_and_its_children(
    site: FakeSite, identity: Identity, tmp_path: Path, log: Log
) -> None:
    state = CoordinatorState()
    assignment_id = await offer_training(state, tmp_path)
    async with serving(state, identity) as port, site.agent(port, fault="hang"):
        pids = [int(await wait_for_file(site.state_folder / name)) for name in (PID_FILE, GRANDCHILD_FILE)]
        await state.cancel(assignment_id)
        await state.until(lambda: state.polls[-1] == "")
        await until(lambda: all(map(has_ended, pids)))
    assert log.events[-1] == "assignment_cancelled"
    assert not state.received


async def test_after_a_cancel_the_next_assignment_is_performed(
    site: FakeSite, identity: Identity, tmp_path: Path
) -> None:
    state = CoordinatorState()
    first = await offer_training(state, tmp_path)
    async with serving(state, identity) as port, site.agent(port, fault="hang_once"):
        await wait_for_file(site.state_folder / PID_FILE)
        await state.cancel(first)
        second = await offer_training(state, tmp_path, number=2)
        await state.until(lambda: state.accepted)
    assert list(state.accepted) == [second]


async def test_the_agents_end_kills_the_trainer(site: FakeSite, identity: Identity, tmp_path: Path) -> None:
    state = CoordinatorState()
    await offer_training(state, tmp_path)
    async with serving(state, identity) as port:
        async with site.agent(port, fault="hang"):
            pid = int(await wait_for_file(site.state_folder / PID_FILE))
            assert not has_ended(pid), "it hangs until it is killed"
        assert has_ended(pid), "the agent has waited for its end"


async def test_an_upload_goes_on_at_its_offset_after_the_coordinator_restarted(
    site: FakeSite, identity: Identity, tmp_path: Path
) -> None:
    state = CoordinatorState()
    state.faults.hang_upload_at = 2 * MAX_CHUNK_BYTES
    assignment_id = await offer_training(state, tmp_path, WIDE)
    port = free_port()
    async with contextlib.AsyncExitStack() as agents:
        async with serving(state, identity, port):
            await agents.enter_async_context(site.agent(port))
            await state.until(lambda: len(state.received.get(assignment_id, b"")) >= 2 * MAX_CHUNK_BYTES)
        async with serving(state, identity, port):
            await state.until(lambda: assignment_id in state.accepted)
    assert state.upload_starts == [0, 2 * MAX_CHUNK_BYTES]
    assert site.trainer_starts == 1


async def test_a_coordinator_that_is_away_at_the_start_is_waited_for(
    site: FakeSite, identity: Identity, tmp_path: Path, log: Log
) -> None:
    state = CoordinatorState()
    state.faults.hide_polls_for = Reason.PEER_AWAY
    async with serving(state, identity) as port, site.agent(port):
        await state.until(lambda: len(state.polls) > 3)
        state.faults.hide_polls_for = None
        assignment_id = await offer_training(state, tmp_path)
        await state.until(lambda: assignment_id in state.accepted)
    events = log.events
    assert (events.count("coordinator_away"), events.count("coordinator_reached")) == (1, 0)
    assert events.count("coordinator_back") == 1


@pytest.mark.parametrize(
    ("fault", "was_oom_killed", "starts", "reason"),
    [
        ("crash", False, 1, Reason.TRAINER_CRASHED),
        ("killed", False, MAX_STARTS, Reason.TRAINER_CRASHED),
        ("killed", True, 1, Reason.OUT_OF_MEMORY),
        ("crash", True, 1, Reason.TRAINER_CRASHED),
        ("says_oom", False, 1, Reason.OUT_OF_MEMORY),
    ],
)
async def test_a_trainer_that_fails_is_a_decline_with_its_reason(
    site: FakeSite, identity: Identity, tmp_path: Path, fault: str, was_oom_killed: bool, starts: int, reason: Reason
) -> None:
    state = CoordinatorState()
    assignment_id = await offer_training(state, tmp_path)
    counts = itertools.count() if was_oom_killed else itertools.repeat(7)
    async with serving(state, identity) as port, site.agent(port, fault=fault, oom_kills=lambda: next(counts)):
        await state.until(lambda: assignment_id in state.declined)
    assert state.declined[assignment_id] == reason_to_proto(reason)
    assert site.trainer_starts == starts


async def test_a_trainer_that_somebody_kills_is_started_again_and_it_is_told(
    site: FakeSite, identity: Identity, tmp_path: Path, log: Log
) -> None:
    state = CoordinatorState()
    assignment_id = await offer_training(state, tmp_path)
    async with serving(state, identity) as port, site.agent(port, fault="killed_once", oom_kills=lambda: 7):
        await state.until(lambda: assignment_id in state.accepted)
    assert site.trainer_starts == 2
    assert log.events.count("trainer_killed") == 1


async def test_the_trainers_words_stay_in_a_file_of_the_site(
    site: FakeSite, identity: Identity, tmp_path: Path, log: Log
) -> None:
    state = CoordinatorState()
    assignment_id = await offer_training(state, tmp_path)
    async with serving(state, identity) as port, site.agent(port, fault="crash"):
        await state.until(lambda: assignment_id in state.declined)
    assert "own words" not in log.stream.getvalue()
    assert (site.folders[0] / "trainer.log").read_text() == "the trainer's own words\n"


async def test_an_agent_killed_after_training_uploads_without_training_again(
    site: FakeSite, identity: Identity, tmp_path: Path, log: Log
) -> None:
    state = CoordinatorState()
    state.faults.hang_upload_at = MAX_CHUNK_BYTES
    assignment_id = await offer_training(state, tmp_path, WIDE)
    async with serving(state, identity) as port:
        async with site.agent(port):
            await state.until(lambda: len(state.received.get(assignment_id, b"")) >= MAX_CHUNK_BYTES)
        async with site.agent(port):
            await state.until(lambda: assignment_id in state.accepted)
    assert site.trainer_starts == 1
    assert "assignment_resumed" in log.events


async def test_an_agent_killed_while_training_starts_the_trainer_again(
    site: FakeSite, identity: Identity, tmp_path: Path
) -> None:
    state = CoordinatorState()
    assignment_id = await offer_training(state, tmp_path)
    async with serving(state, identity) as port:
        async with site.agent(port, fault="hang_once"):
            await wait_for_file(site.state_folder / PID_FILE)
        async with site.agent(port, fault="hang_once"):
            await state.until(lambda: assignment_id in state.accepted)
    assert site.trainer_starts == 2
    assert state.download_starts == [0]


async def test_a_lost_acknowledgement_costs_no_second_upload(
    site: FakeSite, identity: Identity, tmp_path: Path, log: Log
) -> None:
    state = CoordinatorState()
    state.faults.lose_acknowledgement = True
    assignment_id = await offer_training(state, tmp_path)
    async with serving(state, identity) as port, site.agent(port):
        await state.until(lambda: assignment_id in state.accepted and state.polls[-1] == "")
    assert state.upload_starts == [0]
    assert log.events[-2:] == ["upload_interrupted", "answer_accepted"]


async def test_a_spoiled_download_is_fetched_again(site: FakeSite, identity: Identity, tmp_path: Path) -> None:
    state = CoordinatorState()
    state.faults.spoil_download = True
    assignment_id = await offer_training(state, tmp_path)
    async with serving(state, identity) as port, site.agent(port):
        await state.until(lambda: assignment_id in state.accepted)
    assert state.download_starts == [0, 0]


async def test_a_cut_download_goes_on_at_its_offset(site: FakeSite, identity: Identity, tmp_path: Path) -> None:
    state = CoordinatorState()
    state.faults.cut_download_at = 2 * MAX_CHUNK_BYTES
    assignment_id = await offer_training(state, tmp_path, WIDE)
    async with serving(state, identity) as port, site.agent(port):
        await state.until(lambda: assignment_id in state.accepted)
    assert state.download_starts == [0, 2 * MAX_CHUNK_BYTES]


async def test_a_refused_update_ends_the_assignment_and_not_the_agent(
    site: FakeSite, identity: Identity, tmp_path: Path, log: Log
) -> None:
    state = CoordinatorState()
    first = await offer_training(state, tmp_path)
    async with serving(state, identity) as port, site.agent(port, fault="nan"):
        await state.until(lambda: first not in state.offers and state.polls[-1] == "")
        second = await offer_training(state, tmp_path, number=2)
        await state.until(lambda: second not in state.offers)
    refused = [line for line in log.lines if line["event"] == "answer_refused"]
    assert refused[0]["reason"] == Reason.UPDATE_NOT_FINITE
    assert refused[0]["level"] == "warning"


async def test_an_update_refused_by_its_header_says_so_although_the_stream_goes_on(
    site: FakeSite, identity: Identity, tmp_path: Path, log: Log
) -> None:
    state = CoordinatorState()
    state.faults.refuse_upload = Reason.UPDATE_COUNT_ABSURD
    assignment_id = await offer_training(state, tmp_path, WIDE)
    async with serving(state, identity) as port, site.agent(port):
        await state.until(lambda: assignment_id not in state.offers and state.polls[-1] == "")
    assert log.lines[-1]["event"] == "answer_refused"
    assert log.lines[-1]["reason"] == Reason.UPDATE_COUNT_ABSURD


async def test_an_assignment_of_a_newer_version_is_declined(site: FakeSite, identity: Identity) -> None:
    state = CoordinatorState()
    offer = make_offer(1, make_terms(), initialise=rounds_pb2.InitialiseWork())
    offer.terms.training.schedule = 99  # type: ignore[assignment]
    async with serving(state, identity) as port, site.agent(port):
        assignment_id = await state.offer(offer)
        await state.until(lambda: assignment_id in state.declined)
    assert state.declined[assignment_id] == reason_to_proto(Reason.SETTINGS_UNSUPPORTED)


async def test_what_is_heavy_is_removed_when_an_assignment_ends(
    site: FakeSite, identity: Identity, tmp_path: Path
) -> None:
    state = CoordinatorState()
    assignment_id = await offer_training(state, tmp_path)
    async with serving(state, identity) as port, site.agent(port):
        await state.until(lambda: assignment_id in state.accepted and state.polls[-1] == "")
    assert {path.name for path in site.folders[0].iterdir()} == {"assignment.json", "trainer.log"}

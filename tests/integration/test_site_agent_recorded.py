"""An agent's ledger over real sockets: every message that the coordinator got is in it, and was before it left."""

from __future__ import annotations

import ast
import asyncio
from collections import Counter
from pathlib import Path
from typing import Any, cast

import grpc.aio
import numpy as np
import pytest

from common.errors import FedMedError, OverloadedError, Reason
from common.ids import digest_of
from common.tls import Identity, Role, load_identity
from common.weights_io import write_weights
from fedmedlora.v1 import rounds_pb2, rounds_pb2_grpc
from site_agent.adapters.identity_files import read_identity
from site_agent.adapters.ledger import FileLedger
from site_agent.adapters.ledger_reading import check_ledger
from site_agent.adapters.outgoing import CommandAttribution
from site_agent.adapters.recorded_channel import RecordedChannel, open_channel
from site_agent.adapters.registry_client import coordinator_serves
from site_agent.app.ledger_rows import LedgerRow
from site_agent.domain.ledger import Delivery, Origin, OutgoingMessage
from tests.fakes.coordinator import CoordinatorState, make_offer, serving, train_work
from tests.fakes.site import FakeSite, until
from tests.fakes.site_ledger import SITE, SetClock
from tests.fakes.site_values import make_spec, make_terms
from tests.fakes.tiny_trainer import GO_ON_FILE, STEP
from tests.running import Consortium, make_consortium

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return make_consortium(tmp_path_factory.mktemp("consortium"))


@pytest.fixture
def identity(consortium: Consortium) -> Identity:
    return load_identity(consortium.identity("coordinator", Role.COORDINATOR))


@pytest.fixture
def site(tmp_path: Path, consortium: Consortium) -> FakeSite:
    return FakeSite(state_folder=tmp_path / "state", consortium=consortium)


async def offer_training(state: CoordinatorState, tmp_path: Path) -> str:
    """A TRAIN assignment, whose adapter is all ones."""
    spec = make_spec()
    path = tmp_path / "global.safetensors"
    write_weights(path, {tensor.name: np.ones(tensor.shape, np.float32) for tensor in spec.tensors}, spec.dtype)
    state.files[digest_of(path.read_bytes())] = path.read_bytes()
    return await state.offer(make_offer(1, make_terms(), train=train_work(spec, path.read_bytes())))


def rows_of(site: FakeSite) -> dict[str, list[LedgerRow]]:
    rows: dict[str, list[LedgerRow]] = {}
    for row in check_ledger(site.state_folder).rows():
        rows.setdefault(row.rpc, []).append(row)
    return rows


async def test_a_round_leaves_a_row_for_every_message_that_the_coordinator_got(
    tmp_path: Path, site: FakeSite, identity: Identity
) -> None:
    state = CoordinatorState()
    assignment_id = await offer_training(state, tmp_path)
    async with serving(state, identity) as port, site.agent(port, fault="waits"):
        await state.until(lambda: state.progress)
        (site.state_folder / GO_ON_FILE).touch()
        await state.until(lambda: assignment_id in state.accepted)
        await until(lambda: rows_of(site)["UploadUpdate"][0].answered)
    rows = rows_of(site)
    assert set(rows) == {"AwaitAssignment", "DownloadAdapter", "GetUploadOffset", "ReportProgress", "UploadUpdate"}
    assert sum(row.count for row in rows["AwaitAssignment"]) >= len(state.polls) > 0
    assert sum(row.count for row in rows["ReportProgress"]) == len(state.progress)
    assert all(row.about.assignment_id == assignment_id for row in [*rows["DownloadAdapter"], *rows["UploadUpdate"]])
    assert all(row.about.run == "trial" for row in [*rows["DownloadAdapter"], *rows["ReportProgress"]])


async def test_an_upload_is_one_row_with_its_file_its_tensors_and_all_bytes_that_were_sent(
    tmp_path: Path, site: FakeSite, identity: Identity
) -> None:
    state = CoordinatorState()
    assignment_id = await offer_training(state, tmp_path)
    async with serving(state, identity) as port, site.agent(port):
        await state.until(lambda: assignment_id in state.accepted)
        await until(lambda: rows_of(site)["UploadUpdate"][0].answered)
    (row,) = rows_of(site)["UploadUpdate"]
    spec, received = make_spec(), bytes(state.received[assignment_id])
    assert row.file_digest == digest_of(received) and row.file_bytes == len(received)
    assert row.count == 2 and row.size_bytes > len(received)
    assert row.tensors == len(spec.tensors)
    assert row.norm == pytest.approx((1 + STEP) * spec.parameters**0.5)
    assert {"header.trained.mean_loss", "header.trained.num_examples"} <= set(row.fields)


async def test_nothing_leaves_while_the_ledger_cannot_be_written_and_everything_when_it_can_again(
    tmp_path: Path, site: FakeSite, identity: Identity
) -> None:
    state = CoordinatorState()
    assignment_id = await offer_training(state, tmp_path)
    site.state_folder.mkdir()
    (site.state_folder / "ledger").write_text("a file where the folder should be")
    async with serving(state, identity) as port, site.agent(port) as metrics:
        name, reason = "fedmed_agent_rpc_failures_total", {"reason": "LEDGER_UNWRITABLE"}
        await until(lambda: (metrics.registry.get_sample_value(name, reason) or 0) >= 3)
        assert state.polls == []
        (site.state_folder / "ledger").unlink()
        await state.until(lambda: assignment_id in state.accepted)


async def test_a_refusal_and_a_lost_connection_are_told_apart(site: FakeSite, identity: Identity) -> None:
    who = read_identity(site.consortium.identity(site.name, site.role))
    ledger = FileLedger(site.state_folder, SITE, Origin.COMMAND, SetClock())
    unknown = rounds_pb2.GetUploadOffsetRequest(assignment_id="0" * 32)
    declined = rounds_pb2.DeclineAssignmentRequest(assignment_id="0" * 32)
    async with serving(CoordinatorState(), identity) as port:
        address = f"localhost:{port}"
        async with open_channel(address, who.identity, ledger, CommandAttribution()) as channel:
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.stub(rounds_pb2_grpc.RoundServiceStub).GetUploadOffset(unknown)
    async with open_channel(address, who.identity, ledger, CommandAttribution()) as channel:
        with pytest.raises(grpc.aio.AioRpcError):
            await channel.stub(rounds_pb2_grpc.RoundServiceStub).DeclineAssignment(declined, timeout=5)
    rows = rows_of(site)
    assert [(row.outcome, row.answered) for row in rows["DeclineAssignment"]] == [("failed", 0)]
    assert rows["GetUploadOffset"][0].reason != ""


async def test_a_health_check_is_recorded_too(site: FakeSite, identity: Identity) -> None:
    who = read_identity(site.consortium.identity(site.name, site.role))
    ledger = FileLedger(site.state_folder, SITE, Origin.COMMAND, SetClock())
    async with (
        serving(CoordinatorState(), identity) as port,
        open_channel(f"localhost:{port}", who.identity, ledger, CommandAttribution()) as channel,
    ):
        assert await coordinator_serves(channel)
        assert await coordinator_serves(channel)
    (row,) = rows_of(site)["Check"]
    assert (row.count, row.answered, row.origin) == (2, 2, "command")


class _Order:
    """A recorder and a channel's transport in one: what happened, in which order."""

    def __init__(self, *, is_full: bool = False) -> None:
        self.happened: list[str] = []
        self.sent, self.answer = asyncio.Event(), asyncio.Event()
        self.answer.set()
        self._is_full = is_full

    def record(self, message: OutgoingMessage) -> None:
        if self._is_full:
            raise OverloadedError(Reason.LEDGER_UNWRITABLE, "full")
        self.happened.append(f"record {message.rpc}")

    def settle(self, _ticket: None, delivery: Delivery) -> None:
        self.happened.append(f"settle {delivery.outcome} {delivery.sent_messages}")

    def unary_unary(self, _method: str, **_codec: object) -> Any:
        async def call(_request: bytes, **_options: object) -> bytes:
            self.happened.append("send")
            self.sent.set()
            await self.answer.wait()
            return b""

        return call

    def unary_stream(self, _method: str, **_codec: object) -> Any:
        async def call(_request: bytes) -> Any:
            self.happened.append("send")
            yield b"part"

        return call

    def stream_unary(self, _method: str, **_codec: object) -> Any:
        return lambda: _Upload(self.happened)


class _Upload:
    def __init__(self, happened: list[str]) -> None:
        self._happened = happened

    async def write(self, _message: bytes) -> None:
        self._happened.append("send")

    def cancel(self) -> None:
        self._happened.append("cancel")


def channel_over(order: _Order) -> RecordedChannel:
    return RecordedChannel(cast(grpc.aio.Channel, order), order, CommandAttribution())


CODEC: dict[str, Any] = {
    "request_serializer": rounds_pb2.UploadUpdateRequest.SerializeToString,
    "response_deserializer": lambda content: content,
}
REQUEST = rounds_pb2.UploadUpdateRequest()


async def call_unary(channel: RecordedChannel) -> None:
    await channel.unary_unary("/s/Ask", **CODEC)(REQUEST, timeout=1)


async def call_download(channel: RecordedChannel) -> None:
    async for _ in channel.unary_stream("/s/Ask", **CODEC)(REQUEST):
        pass


async def call_upload(channel: RecordedChannel) -> None:
    call = channel.stream_unary("/s/Ask", **CODEC)(REQUEST, ())
    await call.write(b"1")
    await call.write(b"2")
    call.cancel()


CALLS = pytest.mark.parametrize("call", [call_unary, call_download, call_upload])


@CALLS
async def test_a_message_is_recorded_before_it_is_sent_and_settled_once_after(call: Any) -> None:
    order = _Order()
    await call(channel_over(order))
    assert order.happened[:2] == ["record Ask", "send"]
    assert Counter(what.split()[0] for what in order.happened)["settle"] == 1
    assert order.happened[-1].startswith("settle")


@CALLS
async def test_a_message_that_cannot_be_recorded_is_not_sent(call: Any) -> None:
    order = _Order(is_full=True)
    with pytest.raises(FedMedError, match="full"):
        await call(channel_over(order))
    assert order.happened == []


async def test_a_call_that_nobody_waits_for_any_more_is_settled_as_cancelled() -> None:
    order = _Order()
    order.answer.clear()
    task = asyncio.create_task(call_unary(channel_over(order)))
    await order.sent.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert order.happened == ["record Ask", "send", "settle cancelled 1"]


# Opens a connection, or makes a stub that would go around the ledger.
_OPENS = {"secure_channel", "insecure_channel", "create_connection", "urlopen"}


def test_nothing_in_the_service_opens_a_channel_or_makes_a_stub_but_the_recorded_one() -> None:
    found = []
    for path in sorted((ROOT / "site_agent").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name = getattr(node.func, "attr", getattr(node.func, "id", ""))
                if name in _OPENS or name.endswith("Stub"):
                    found.append((path.relative_to(ROOT / "site_agent").as_posix(), name))
    # The doctor's own looks at the way to the coordinator, and ends its connection after the handshake.
    assert found == [
        ("adapters/link_probe.py", "create_connection"),
        ("adapters/recorded_channel.py", "secure_channel"),
    ]

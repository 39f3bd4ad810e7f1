"""A coordinator in the middle of a round, honest members beside the attackers, and a look at it from outside."""

from __future__ import annotations

import re
import resource
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.running import RunningCoordinator, wait_until  # isort: skip  (hardens TLS first)

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from common.adapter import AdapterSpec
from common.chunk_messages import encode_chunk
from common.ids import digest_of
from common.terms import GateMetric, GateTerms
from common.tls import Role
from common.wire import spec_to_proto, terms_to_proto
from fedmedlora.v1 import admin_pb2, admin_pb2_grpc, rounds_pb2, rounds_pb2_grpc
from tests.fakes.coordinator_updates import update_bytes
from tests.fakes.coordinator_values import ANNA, BERTA, CLARA, EVALUATOR, make_spec, make_terms

CALL_SECONDS = 20.0
UPLOAD = "/fedmedlora.v1.RoundService/UploadUpdate"
HONEST, ATTACKERS = ANNA, (BERTA, CLARA)
# What may stay after an attack: gRPC keeps a few descriptors for itself, the allocator some of what was freed.
SPARE_DESCRIPTORS, SPARE_BYTES = 8, 48 * 2**20


@dataclass(slots=True, kw_only=True)
class Scene:
    """A coordinator that serves, and a new run of its own for each attack that needs one."""

    coordinator: RunningCoordinator
    folder: Path
    spec: AdapterSpec = field(default_factory=lambda: make_spec(modules=2, width=2**15))
    runs: int = 0

    def channel(self, name: str, role: Role) -> Any:
        """A synchronous channel of that member; its raw calls take bytes."""
        return self.coordinator.channel(self.coordinator.consortium.identity(name, role))

    @contextmanager
    def rounds(self, name: str, role: Role = Role.SITE) -> Iterator[rounds_pb2_grpc.RoundServiceStub]:
        """RoundService, as that member calls it."""
        with self.channel(name, role) as channel:
            yield rounds_pb2_grpc.RoundServiceStub(channel)

    def open_round(self) -> dict[str, rounds_pb2.Assignment]:
        """Create a run, make its first adapter, and return each site's TRAIN assignment in its first round."""
        self.runs += 1
        terms = replace(make_terms(f"run-{self.runs}"), gate=GateTerms(metric=GateMetric.NONE))
        with self.channel("ops", Role.OPERATOR) as channel:
            request = admin_pb2.CreateRunRequest(terms=terms_to_proto(terms))
            run_id = admin_pb2_grpc.AdminServiceStub(channel).CreateRun(request, timeout=CALL_SECONDS).run_id
        self._initialise(run_id)
        return {site: self._assignment(site, run_id) for site in (HONEST, *ATTACKERS)}

    def close_round(self, assignments: dict[str, rounds_pb2.Assignment]) -> None:
        """Abort the run, so that the next attack's is the oldest one that is open."""
        with self.channel("ops", Role.OPERATOR) as channel:
            request = admin_pb2.AbortRunRequest(run=assignments[HONEST].run_id)
            admin_pb2_grpc.AdminServiceStub(channel).AbortRun(request, timeout=CALL_SECONDS)

    def update(self, seed: int) -> bytes:
        """An update as an honest site would write it."""
        return update_bytes(self.folder, self.spec, seed)

    def upload(self, site: str, assignment: rounds_pb2.Assignment, content: bytes) -> str:
        """Upload ``content`` by the rules; the digest that was accepted."""
        parts = [trained_header(assignment, content), encode_chunk(0, content)]
        with self.channel(site, Role.SITE) as channel:
            answer = channel.stream_unary(UPLOAD)(iter(parts), timeout=CALL_SECONDS)
        return rounds_pb2.UploadUpdateResponse.FromString(answer).digest

    def refusal(self, site: str, parts: Iterator[bytes]) -> str:
        """The reason with which an upload made of ``parts`` is refused; gRPC's status where gRPC itself refuses."""
        with self.channel(site, Role.SITE) as channel:
            return refusal_of(lambda: channel.stream_unary(UPLOAD)(parts, timeout=CALL_SECONDS))

    @property
    def descriptors(self) -> int:
        """Open files of the coordinator."""
        return sum(1 for _ in Path(f"/proc/{self.coordinator.process.pid}/fd").iterdir())

    @property
    def memory_bytes(self) -> int:
        """Memory of the coordinator that is its own."""
        status = Path(f"/proc/{self.coordinator.process.pid}/status").read_text(encoding="utf-8")
        found = re.search(r"RssAnon:\s+(\d+) kB", status)
        assert found is not None
        return int(found[1]) * 1024

    def faults(self) -> float:
        """How many calls ended in a fault of the coordinator's own so far."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.coordinator.metrics_port}/metrics") as response:
            page = response.read().decode()
        found = re.search(r'fedmed_refusals_total\{reason="INTERNAL"\} ([0-9.e+]+)', page)
        return float(found[1]) if found else 0.0

    def _initialise(self, run_id: str) -> None:
        with self.rounds(EVALUATOR, Role.EVALUATOR) as stub:
            assignment = _await(stub, run_id)
            content = self.update(seed=0)
            header = rounds_pb2.UploadHeader(
                assignment_id=assignment.assignment_id,
                digest=digest_of(content),
                size_bytes=len(content),
                first=rounds_pb2.FirstAdapter(spec=spec_to_proto(self.spec)),
            )
            parts = [rounds_pb2.UploadUpdateRequest(header=header), rounds_pb2.UploadUpdateRequest()]
            parts[1].chunk.content = content
            stub.UploadUpdate(iter(parts), timeout=CALL_SECONDS)

    def _assignment(self, site: str, run_id: str) -> rounds_pb2.Assignment:
        # Everyone expected must have polled before a round begins: the others' polls do not wait for their answers.
        with self.channel(site, Role.SITE) as channel:
            polls = [self.channel(other, Role.SITE) for other in (HONEST, *ATTACKERS) if other != site]
            waiting = [
                rounds_pb2_grpc.RoundServiceStub(poll).AwaitAssignment.future(
                    rounds_pb2.AwaitAssignmentRequest(), timeout=CALL_SECONDS
                )
                for poll in polls
            ]
            try:
                return _await(rounds_pb2_grpc.RoundServiceStub(channel), run_id)
            finally:
                for call, poll in zip(waiting, polls, strict=True):
                    call.cancel()
                    poll.close()


def trained_header(
    assignment: rounds_pb2.Assignment, content: bytes, size_bytes: int | None = None, digest: str = ""
) -> bytes:
    """The first message of an upload of ``content``, or of what is claimed of it."""
    header = rounds_pb2.UploadHeader(
        assignment_id=assignment.assignment_id,
        digest=digest or digest_of(content),
        size_bytes=len(content) if size_bytes is None else size_bytes,
        trained=rounds_pb2.TrainedUpdate(
            base_digest=assignment.train.global_adapter.digest, num_examples=10, num_label_tokens=100
        ),
    )
    return rounds_pb2.UploadUpdateRequest(header=header).SerializeToString()


def refusal_of(call: Callable[[], object]) -> str:
    """The reason that ``call`` fails with, or the name of gRPC's status where there is no reason."""
    try:
        call()
    except grpc.RpcError as error:
        return reason_of(error)
    raise AssertionError("expected a refusal, got an answer")


def reason_of(error: Any) -> str:
    """The reason in the status details, or the name of the status where there is none."""
    status = rpc_status.from_call(error)
    if status is None:
        return str(error.code().name)
    detail = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(detail)
    return str(detail.reason)


@contextmanager
def unhurt(scene: Scene) -> Iterator[None]:
    """After the block: nothing leaked, no fault of the coordinator's own, and an honest site gets through a round."""
    descriptors, memory, faults = scene.descriptors, scene.memory_bytes, scene.faults()
    yield
    ended = scene.coordinator.process.poll()
    assert ended is None, f"the coordinator ended with {ended}"
    wait_until(lambda: scene.descriptors <= descriptors + SPARE_DESCRIPTORS, CALL_SECONDS)
    grown = scene.memory_bytes - memory
    assert grown < SPARE_BYTES, f"expected at most {SPARE_BYTES} bytes more, got {grown}"
    assert scene.faults() == faults
    with honest_round(scene) as assignments:
        content = scene.update(seed=1)
        assert scene.upload(HONEST, assignments[HONEST], content) == digest_of(content)


@contextmanager
def descriptor_limit(soft: int) -> Iterator[None]:
    """Let this process, and those that it starts, have at most ``soft`` open files for the block."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, hard))


@contextmanager
def honest_round(scene: Scene) -> Iterator[dict[str, rounds_pb2.Assignment]]:
    """A round that has begun, for the block."""
    assignments = scene.open_round()
    try:
        yield assignments
    finally:
        scene.close_round(assignments)


def _await(stub: rounds_pb2_grpc.RoundServiceStub, run_id: str) -> rounds_pb2.Assignment:
    """Poll until there is an assignment, which must be of that run: the oldest that is open comes first."""
    while True:
        answer = stub.AwaitAssignment(rounds_pb2.AwaitAssignmentRequest(), timeout=CALL_SECONDS)
        if answer.HasField("assignment"):
            assert answer.assignment.run_id == run_id, "expected no other run that is open"
            return answer.assignment

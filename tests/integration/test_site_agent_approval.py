"""Approval between real processes: the agent holds, a person's command decides, a killed agent holds again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from common.errors import Reason
from common.rpc_errors import reason_from_proto, reason_to_proto
from common.terms import GateMetric, GateTerms, RoundTerms, Terms
from common.tls import Role, load_identity
from coordinator import cli_text
from coordinator.adapters.rpc.operator_client import connect
from fedmedlora.v1 import admin_pb2
from site_agent.adapters.approval_folder import ApprovalFolder
from site_agent.app.ports import Verdict
from tests.fakes.coordinator import CoordinatorState, serving
from tests.fakes.site import FakeSite, until
from tests.fakes.site_policies import write_policy
from tests.fakes.site_scene import NOON
from tests.fakes.site_values import UNAPPROVED, make_terms
from tests.integration.test_site_agent_process import finish, offer_of, running, write_config
from tests.running import Consortium, free_port, make_consortium, running_coordinator

AWAITED = reason_to_proto(Reason.APPROVAL_AWAITED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A coordinator with one assignment, and the configuration of a site that may not begin it yet."""

    state: CoordinatorState
    config: Path
    terms_digest: str

    async def is_held(self) -> None:
        """Wait until the agent polls, and says that it holds the assignment."""
        self.state.held.clear()
        await until(lambda: AWAITED in self.state.held)

    async def review(self) -> dict[str, object]:
        code, out, error = await finish("review", "--json", "--config", str(self.config))
        assert code == 0, error
        (run,) = json.loads(out)["runs"]
        return dict(run)


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return make_consortium(tmp_path_factory.mktemp("consortium"))


@asynccontextmanager
async def holding(folder: Path, consortium: Consortium) -> AsyncIterator[Held]:
    state = CoordinatorState()
    offer_of(state, folder)
    async with serving(state, load_identity(consortium.identity("coordinator", Role.COORDINATOR))) as port:
        config = write_config(folder, consortium, port, free_port())
        write_policy(folder / "policy.toml", make_terms(), standing=False)
        yield Held(state=state, config=config, terms_digest=make_terms().digest)


async def test_an_agent_holds_a_run_through_kills_until_a_person_approves_it(
    tmp_path: Path, consortium: Consortium
) -> None:
    async with holding(tmp_path, consortium) as held:
        for _ in range(2):
            async with running(held.config) as agent:
                await held.is_held()
                agent.kill()
                await agent.wait()
        assert (await held.review())["state"] == "awaiting approval"
        assert not held.state.accepted

        code, out, error = await finish("approve", held.terms_digest, "--config", str(held.config))
        assert (code, "approved" in out) == (0, True), error
        async with running(held.config):
            await until(lambda: held.state.accepted)

        reviewed = await held.review()
        assert reviewed["state"] == "approved"
        verdict = reviewed["verdict"]
        assert isinstance(verdict, dict) and verdict["by"] and verdict["at"]


async def test_a_persons_decline_reaches_a_running_agent_and_its_words_stay_at_the_site(
    tmp_path: Path, consortium: Consortium
) -> None:
    async with holding(tmp_path, consortium) as held, running(held.config):
        await held.is_held()
        said = ("--reason", "the board said no")
        code, _, error = await finish("decline", held.terms_digest, *said, "--config", str(held.config))
        assert code == 0, error
        await until(lambda: held.state.declined)
        assert [reason_from_proto(value) for value in held.state.declined.values()] == [Reason.APPROVAL_DECLINED]
        code, out, _ = await finish("review", "--config", str(held.config))
        assert (code, "declined by" in out, "the board said no" in out) == (0, True, True)


async def test_a_digest_that_was_not_offered_cannot_be_approved(tmp_path: Path, consortium: Consortium) -> None:
    async with holding(tmp_path, consortium) as held:
        for digest, reason in (("sha256:" + "0" * 64, "RUN_UNKNOWN"), ("latest", "DIGEST_INVALID")):
            code, _, error = await finish("approve", digest, "--config", str(held.config))
            assert (code, error.startswith(reason)) == (1, True), error


# With the real coordinator: what its operator sees


def run_terms() -> Terms:
    return replace(
        make_terms("held"),
        rounds=RoundTerms(count=1, quorum=1, sites=("anna", "berta"), grace=1.0),
        gate=GateTerms(metric=GateMetric.NONE),
    )


def reasons(report: admin_pb2.RunReport) -> dict[str, tuple[int, int]]:
    return {entry.site: (entry.outcome, entry.reason) for past in report.rounds for entry in past.roster}


async def test_the_operator_sees_who_awaits_approval_and_why_a_straggler_is_one(tmp_path: Path) -> None:
    consortium = make_consortium(tmp_path / "consortium")
    anna, berta, eva = (
        FakeSite(state_folder=tmp_path / name, consortium=consortium, name=name, role=role)
        for name, role in (("anna", Role.SITE), ("berta", Role.SITE), ("eva", Role.EVALUATOR))
    )
    yes = Verdict(is_approved=True, by="alice", at=NOON)
    with running_coordinator(consortium) as coordinator:
        operator = consortium.identity("ops", Role.OPERATOR)
        async with (
            eva.agent(coordinator.port),
            anna.agent(coordinator.port, policy=UNAPPROVED),
            berta.agent(coordinator.port, policy=UNAPPROVED),
            connect(coordinator.address, operator) as client,
        ):
            await client.create_run(run_terms())
            waits = (admin_pb2.SITE_OUTCOME_INVITED, AWAITED)
            async with asyncio.timeout(60):
                async for report in client.watch_run("held"):
                    if reasons(report) == {"anna": waits, "berta": waits}:
                        break
            shown = cli_text.round_table(report.rounds[0])
            assert list(shown.columns[2].cells) == ["APPROVAL_AWAITED"] * 2
            ApprovalFolder(anna.state_folder).decide(run_terms().digest, yes)
            report = [each async for each in client.watch_run("held")][-1]
    assert report.summary.state == admin_pb2.RUN_STATE_COMPLETED
    assert reasons(report) == {
        "anna": (admin_pb2.SITE_OUTCOME_ACCEPTED, 0),
        "berta": (admin_pb2.SITE_OUTCOME_STRAGGLER, AWAITED),
    }
    assert (anna.trainer_starts, berta.trainer_starts) == (1, 0)

"""Single calls of an agent to a coordinator over real mutual TLS: how long it waits, and what a failure means."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from prometheus_client import CollectorRegistry

from common.clock import SystemClock
from common.config import load_toml
from common.errors import FedMedError, InputInvalidError, Reason
from common.tls import Role, load_identity
from coordinator.config import CoordinatorConfig
from site_agent.adapters.ledger import FileLedger
from site_agent.adapters.metrics import AgentMetrics
from site_agent.adapters.outgoing import CommandAttribution
from site_agent.adapters.recorded_channel import open_channel
from site_agent.adapters.rpc_client import POLL_SECONDS, RpcCoordinator
from site_agent.domain.ledger import Origin
from tests.fakes.coordinator import CoordinatorState, serving
from tests.running import Consortium, free_port, make_consortium


@pytest.fixture(scope="module")
def consortium(tmp_path_factory: pytest.TempPathFactory) -> Consortium:
    return make_consortium(tmp_path_factory.mktemp("consortium"))


async def failed_poll(identity_folder: Path, port: int, registry: list[CollectorRegistry]) -> FedMedError:
    """What one poll with this identity ends with; the metrics that it left are added to ``registry``."""
    identity = load_identity(identity_folder)
    metrics = AgentMetrics(certificate_expires_at=0.0)
    registry.append(metrics.registry)
    expires_at = x509.load_pem_x509_certificate(identity.certificate_pem).not_valid_after_utc
    ledger = FileLedger(identity_folder / "state", "site", Origin.AGENT, SystemClock())
    channel = open_channel(f"localhost:{port}", identity, ledger, CommandAttribution())
    async with asyncio.timeout(30), channel:
        with pytest.raises(FedMedError) as caught:
            await RpcCoordinator(channel, metrics, expires_at).await_assignment(None)
    return caught.value


async def test_a_poll_that_fails_after_the_certificate_has_expired_says_so(consortium: Consortium) -> None:
    late = consortium.identity("late", Role.SITE, life=timedelta(seconds=-1))
    registry: list[CollectorRegistry] = []
    async with serving(CoordinatorState(), load_identity(consortium.identity("coordinator", Role.COORDINATOR))) as port:
        error = await failed_poll(late, port, registry)
    assert error.reason is Reason.CERTIFICATE_INVALID
    assert "got one that expired at" in error.message
    failures = registry[0].get_sample_value("fedmed_agent_rpc_failures_total", {"reason": "CERTIFICATE_INVALID"})
    assert failures == 1


async def test_a_poll_that_nobody_answers_says_that_the_coordinator_is_away(consortium: Consortium) -> None:
    error = await failed_poll(consortium.identity("anna", Role.SITE), free_port(), [])
    assert error.reason is Reason.PEER_AWAY


def test_no_coordinator_may_hold_a_poll_as_long_as_an_agent_waits(tmp_path: Path) -> None:
    config = tmp_path / "coordinator.toml"
    hold = f'coordinator.poll_hold = "{POLL_SECONDS:.0f}s"'
    config.write_text(f'coordinator.state_folder = "state"\n{hold}\nidentity.folder = "identity"\n')
    with pytest.raises(InputInvalidError, match="poll_hold"):
        load_toml(config, CoordinatorConfig)

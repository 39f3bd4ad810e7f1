"""The compose file's federation, from its real images: it publishes an adapter, it is walled in, it can be watched."""

from __future__ import annotations

from pathlib import Path

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from tests.containers.conftest import ROUNDS
from tests.containers.engine import Engine

pytestmark = pytest.mark.containers

SITES = ("city-emergency", "general-hospital", "lakeside-clinic")
AGENTS = (*SITES, "evaluator")
SERVICES = ("coordinator", *AGENTS, "prometheus")
STEPS = ("prepare", "invite", *(f"enrol-{agent}" for agent in AGENTS), "certify", "operator")
IDENTITY = "/var/lib/fedmedlora/identity"
COORDINATOR_IDENTITY = "/srv/coordinator/identity"
REGISTRY = "/var/lib/fedmedlora/registry/demo"
# Prints those of its arguments, host:port each, that take a TCP connection.
CONNECT = """
import socket, sys
for target in sys.argv[1:]:
    host, _, port = target.partition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        continue
    print(target)
"""


# Renews the certificate of the container's agent as the agent does when it is due, and prints its old and new serial.
RENEW = """
import asyncio
from pathlib import Path
from common.tls import harden_tls
harden_tls()
from common.clock import SystemClock
from common.config import load_toml
from common.identity_folder import read_certified
from site_agent.adapters.enrolment_client import renew
from site_agent.adapters.ledger import FileLedger
from site_agent.adapters.outgoing import CommandAttribution
from site_agent.adapters.recorded_channel import Dial
from site_agent.config import SiteConfig
from site_agent.domain.ledger import Origin

async def main():
    config = load_toml(Path("/etc/fedmedlora/site.toml"), SiteConfig)
    folder, before = config.identity.folder, read_certified(config.identity.folder)
    ledger = FileLedger(config.site.state_folder, before.caller.uri, Origin.COMMAND, SystemClock())
    dial = Dial(config.coordinator.address, ledger, CommandAttribution(), config.coordinator.server_name)
    async with dial.channel(before.identity) as channel:
        await renew(channel, before.caller, folder)
    print(before.serial, read_certified(folder).serial)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def agent_addresses(federation: Engine) -> dict[str, list[str]]:
    """The IP addresses of each agent's container, one for each of its networks."""
    networks = {agent: federation.inspect(agent)["NetworkSettings"]["Networks"] for agent in AGENTS}
    return {agent: [each["IPAddress"] for each in networks[agent].values()] for agent in AGENTS}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_is_done_once_is_done(federation: Engine, step: str) -> None:
    assert federation.inspect(step)["State"]["ExitCode"] == 0


def test_the_operators_release_verifies(federation: Engine, tmp_path: Path) -> None:
    said = federation.compose("logs", "--no-log-prefix", "operator").splitlines()
    assert "/var/lib/fedmedlora/release: yes" in said
    assert f"updates signed by keys that the root confirms: {len(SITES) * ROUNDS} of {len(SITES) * ROUNDS}" in said
    federation.compose("cp", "operator:/var/lib/fedmedlora/release", str(tmp_path / "release"))
    assert {"release.json", "adapter_model.safetensors"} <= {path.name for path in (tmp_path / "release").iterdir()}


def test_a_published_adapter_is_a_folder_that_peft_loads(federation: Engine, base_model: Path, tmp_path: Path) -> None:
    federation.compose("cp", f"coordinator:{REGISTRY}/v{ROUNDS:04d}", str(tmp_path / "adapter"))
    files = {path.name for path in (tmp_path / "adapter").iterdir()}
    assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} <= files
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base_model), tmp_path / "adapter")
    factors = [values for name, values in model.named_parameters() if "lora_B" in name]
    assert factors and any(values.abs().max() > 0 for values in factors)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_became_healthy(federation: Engine, service: str) -> None:
    assert federation.inspect(service)["State"]["Health"]["Status"] == "healthy"


def test_the_coordinators_health_check_fails_where_nothing_serves(federation: Engine) -> None:
    check = federation.inspect("coordinator")["Config"]["Healthcheck"]["Test"][1:]
    with pytest.raises(AssertionError, match="ended with"):
        federation.compose("run", "--rm", "--no-deps", "--no-TTY", "--entrypoint", check[0], "coordinator", *check[1:])


@pytest.mark.parametrize("service", ["evaluator", "lakeside-clinic"])
def test_an_agents_health_check_fails_where_no_agent_works(federation: Engine, service: str) -> None:
    check = federation.inspect(service)["Config"]["Healthcheck"]["Test"][1:]
    assert check[-1] == "/etc/fedmedlora/site.toml"
    # The same check of another container, whose state folder nobody works in.
    elsewhere = f"sed s#/var/lib/fedmedlora/state#/tmp/nobody# {check[-1]}"
    script = f"{elsewhere} >/tmp/site.toml && {' '.join(check[:-1])} /tmp/site.toml"
    with pytest.raises(AssertionError, match="no agent works in /tmp/nobody"):
        federation.compose("run", "--rm", "--no-deps", "--no-TTY", "--entrypoint", "sh", service, "-c", script)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_no_privilege_and_cannot_get_one(federation: Engine, service: str) -> None:
    status = dict(line.split(":\t") for line in federation.inside(service, "cat", "/proc/1/status").splitlines())
    assert "0" not in status["Uid"].split()
    assert status["CapBnd"].strip("0") == ""
    assert status["NoNewPrivs"] == "1"


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_cannot_write_to_its_image_and_has_a_memory_limit(federation: Engine, service: str) -> None:
    host = federation.inspect(service)["HostConfig"]
    assert host["ReadonlyRootfs"] and 0 < host["Memory"] <= 4 * 2**30
    with pytest.raises(AssertionError, match="Read-only file system"):
        federation.compose("exec", "--no-TTY", "--user", "0", service, "touch", "/etc/written")


def test_no_two_services_share_a_volume(federation: Engine) -> None:
    volumes = {
        service: {mount["Name"] for mount in federation.inspect(service)["Mounts"] if mount["Type"] == "volume"}
        for service in SERVICES
    }
    assert all(volumes.values())
    assert len(set().union(*volumes.values())) == sum(len(names) for names in volumes.values())


def test_each_agent_finds_its_own_key_and_its_own_notes_and_no_others(federation: Engine) -> None:
    places = ("/srv", "/var/lib/fedmedlora", "/mnt", "/media")
    found = {name: federation.inside(name, "find", *places, "-type", "f").split() for name in AGENTS}
    own = [f"{IDENTITY}/key.pem", f"{IDENTITY}/signing_key.pem"]
    keys = {name: federation.inside(name, "sha256sum", *own).split()[::2] for name in AGENTS}
    notes = {name: federation.inside(name, "sha256sum", "/srv/site/train.jsonl") for name in SITES}
    for name in AGENTS:
        assert sorted(path for path in found[name] if path.endswith("key.pem")) == own
    assert len({digest for digests in keys.values() for digest in digests}) == len(own) * len(AGENTS)
    assert len(set(notes.values())) == len(SITES)


def test_the_coordinator_finds_no_note_and_no_key_of_a_ca_but_its_own(federation: Engine) -> None:
    places = ("/srv", "/var/lib/fedmedlora")
    found = federation.inside("coordinator", "find", *places, "-type", "f").split()
    assert "/srv/coordinator/identity/key.pem" in found
    assert [path for path in found if "ca_key" in path] == ["/srv/coordinator/issuing_ca/ca_key.pem"]
    notes = [path for path in found if path.endswith(".jsonl")]
    assert notes == ["/srv/coordinator/issuing_ca/issued.jsonl"]


def test_the_roots_key_is_in_no_service(federation: Engine) -> None:
    mounts = {mount["Name"] for name in SERVICES for mount in federation.inspect(name)["Mounts"] if "Name" in mount}
    (root,) = (
        mount["Name"] for mount in federation.inspect("certify")["Mounts"] if mount["Destination"] == "/srv/root"
    )
    assert root not in mounts


@pytest.mark.parametrize("agent", ["evaluator", "lakeside-clinic"])
def test_an_agents_certificate_is_renewed_where_it_lies_and_the_agent_goes_on_with_it(
    federation: Engine, agent: str
) -> None:
    before, after = federation.inside(agent, "python3", "-c", RENEW).split()
    assert before != after
    federation.inside(agent, "fedmed-site", "health", "--config", "/etc/fedmedlora/site.toml")


def test_the_coordinators_certificate_can_be_renewed_where_it_lies(federation: Engine) -> None:
    federation.inside("coordinator", "touch", f"{COORDINATOR_IDENTITY}/next")
    assert "next" in federation.inside("coordinator", "ls", COORDINATOR_IDENTITY).split()
    federation.inside("coordinator", "rm", f"{COORDINATOR_IDENTITY}/next")


def test_an_agent_cannot_write_to_its_notes_and_its_policy(federation: Engine) -> None:
    for file in ("train.jsonl", "policy.toml"):
        with pytest.raises(AssertionError, match="ended with"):
            federation.inside("lakeside-clinic", "test", "-w", f"/srv/site/{file}")


@pytest.mark.parametrize("agent", AGENTS)
def test_an_agent_reaches_the_coordinator_and_no_other_agent(
    federation: Engine, agent_addresses: dict[str, list[str]], agent: str
) -> None:
    # Each of these listens, as Prometheus finds in the test below, and is open to whoever shares a network with it.
    others = [f"{address}:9101" for other in AGENTS if other != agent for address in agent_addresses[other]]
    assert len(others) == len(AGENTS) - 1
    reached = federation.inside(agent, "python3", "-c", CONNECT, "coordinator:8443", f"{agent}:9101", *others)
    assert reached.split() == ["coordinator:8443", f"{agent}:9101"]


def test_prometheus_scrapes_every_process(federation: Engine) -> None:
    up = {each["metric"]["instance"]: each["value"][1] for each in federation.query("up")}
    assert up == {"coordinator:9100": "1"} | {f"{agent}:9101": "1" for agent in AGENTS}


def test_prometheus_saw_the_rounds_and_the_bytes(federation: Engine) -> None:
    committed = federation.query('fedmed_rounds_total{phase="committed"}')
    assert [each["value"][1] for each in committed] == [str(ROUNDS)]
    uploads = federation.query('fedmed_agent_sent_bytes_total{rpc="UploadUpdate",job="site"}')
    assert {each["metric"]["instance"].split(":")[0] for each in uploads} == set(SITES)


def test_prometheus_finds_no_fault_in_its_configuration(federation: Engine) -> None:
    said = federation.inside("prometheus", "promtool", "check", "config", "/etc/prometheus/prometheus.yml")
    assert "SUCCESS" in said


def test_starting_again_finds_the_run_that_is_there(federation: Engine) -> None:
    before = federation.inside("coordinator", "ls", REGISTRY)
    federation.compose("up", "--detach", "--no-build")
    assert federation.docker("wait", federation.inspect("operator")["Id"]).strip() == "0"
    assert federation.inside("coordinator", "ls", REGISTRY) == before

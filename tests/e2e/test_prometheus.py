"""A real Prometheus scrapes the real processes of a federation; `promtool` finds no fault in what they serve.

The trainers are tiny ones without torch: what is tested is what agents and coordinator tell of a run, not the run.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from common import metric_names
from common.ids import RunId
from common.terms import GateMetric, GateTerms, RoundTerms
from common.tls import Role
from coordinator.adapters.rpc.operator_client import connect
from fedmedlora.v1 import admin_pb2
from tests.fakes.site import trainer_command
from tests.fakes.site_policies import write_policy
from tests.fakes.site_values import make_terms
from tests.running import Consortium, RunningCoordinator, free_port, make_consortium, running_coordinator, wait_until

ROOT = Path(__file__).parents[2]
MEMBERS = {"anna": Role.SITE, "berta": Role.SITE, "eva": Role.EVALUATOR}
PROCESSES = ("coordinator", *MEMBERS)
ROUNDS = 2
RUN_SECONDS, SCRAPE_SECONDS = 120.0, 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Scraped:
    """A federation whose run has ended, and the Prometheus that watches it.

    Attributes:
        ports: Where each process serves its metrics.
    """

    prometheus_port: int
    ports: Mapping[str, int]

    def metrics_of(self, process: str) -> str:
        """What a process serves."""
        return fetch(f"http://127.0.0.1:{self.ports[process]}/metrics")

    def query(self, expression: str) -> dict[str, float]:
        """What Prometheus answers now, by process (or under "" where the expression sums over all)."""
        url = f"http://127.0.0.1:{self.prometheus_port}/api/v1/query?query={quote(expression)}"
        result: list[dict[str, Any]] = json.loads(fetch(url))["data"]["result"]
        return {each["metric"].get("job", ""): float(each["value"][1]) for each in result}


TERMS = replace(
    make_terms("watched"),
    rounds=RoundTerms(count=ROUNDS, quorum=2, sites=("anna", "berta"), grace=5.0),
    gate=GateTerms(metric=GateMetric.STRICT_F1),
)


def fetch(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


@contextmanager
def running(*command: str, log: Path) -> Iterator[None]:
    """A process that is ended with the block."""
    with log.open("ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield
    finally:
        process.terminate()
        process.wait(30)


def agent_config(folder: Path, consortium: Consortium, name: str, port: int, metrics_port: int) -> Path:
    config = folder / f"{name}.toml"
    notes = "validation" if MEMBERS[name] is Role.EVALUATOR else "train"
    config.write_text(
        f'coordinator.address = "localhost:{port}"\nidentity.folder = "{consortium.identity(name, MEMBERS[name])}"\n'
        f'site.state_folder = "{name}"\nbase_model.location = "./model"\ndata.{notes} = ["notes.jsonl"]\n'
        f'metrics.listen = "127.0.0.1:{metrics_port}"\ntrainer.command = {json.dumps(trainer_command())}\n'
        f'policy.file = "{write_policy(folder / "policy.toml", TERMS)}"\n'
    )
    return config


def prometheus_config(folder: Path, ports: Mapping[str, int]) -> Path:
    jobs = [{"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]} for name, port in ports.items()]
    config = folder / "prometheus.json"  # JSON is YAML
    config.write_text(json.dumps({"global": {"scrape_interval": "1s"}, "scrape_configs": jobs}))
    return config


async def carry_out_a_run(coordinator: RunningCoordinator) -> int:
    """Its state at the end."""
    async with connect(coordinator.address, coordinator.consortium.identity("ops", Role.OPERATOR)) as client:
        run_id = (await client.create_run(TERMS)).run_id
        async with asyncio.timeout(RUN_SECONDS):
            return [report.summary.state async for report in client.watch_run(RunId(run_id))][-1]


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory, promtool: str) -> Iterator[Scraped]:
    folder = tmp_path_factory.mktemp("scraped")
    consortium = make_consortium(folder / "consortium")
    with ExitStack() as stack:
        coordinator = stack.enter_context(running_coordinator(consortium))
        ports = {"coordinator": coordinator.metrics_port} | {name: free_port() for name in MEMBERS}
        for name in MEMBERS:
            config = agent_config(folder, consortium, name, coordinator.port, ports[name])
            command = (sys.executable, "-m", "site_agent", "run", "--config", str(config))
            stack.enter_context(running(*command, log=folder / f"{name}.log"))
        assert asyncio.run(carry_out_a_run(coordinator)) == admin_pb2.RUN_STATE_COMPLETED
        port = free_port()
        stack.enter_context(
            running(
                "prometheus",
                f"--config.file={prometheus_config(folder, ports)}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address=127.0.0.1:{port}",
                log=folder / "prometheus.log",
            )
        )
        scraped = Scraped(prometheus_port=port, ports=ports)
        wait_until(lambda: has_scraped_all(scraped), SCRAPE_SECONDS)
        yield scraped


def has_scraped_all(scraped: Scraped) -> bool:
    try:
        return len(scraped.query("up")) == len(PROCESSES)
    except OSError:  # it does not listen yet
        return False


def test_every_process_is_up_for_prometheus(scraped: Scraped) -> None:
    assert scraped.query("up") == dict.fromkeys(PROCESSES, 1.0)


@pytest.mark.parametrize("process", PROCESSES)
def test_promtool_finds_no_fault_in_the_metrics_of(scraped: Scraped, promtool: str, process: str) -> None:
    text = scraped.metrics_of(process)
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


@pytest.mark.parametrize("process", PROCESSES)
def test_every_metric_that_is_documented_is_served_by(scraped: Scraped, process: str) -> None:
    documented = metric_names.AGENT_METRICS if process in MEMBERS else metric_names.COORDINATOR_METRICS
    text = scraped.metrics_of(process)
    missing = [each.name for each in documented if f"# TYPE {each.name} {each.type}" not in text]
    assert [name for name in missing if not name.startswith("fedmed_agent_gpu_")] == []  # not every machine has a GPU


def test_prometheus_counts_the_rounds_of_the_run(scraped: Scraped) -> None:
    assert scraped.query('fedmed_rounds_total{phase="committed"}') == {"coordinator": ROUNDS}


def test_coordinator_and_sites_count_the_same_uploaded_bytes(scraped: Scraped) -> None:
    received = scraped.query('sum(fedmed_received_bytes_total{rpc="UploadUpdate"})')
    sent = scraped.query('sum(fedmed_agent_sent_bytes_total{rpc="UploadUpdate"})')
    assert received == sent
    assert received[""] > 0


def test_the_configuration_of_the_compose_demo_is_valid(promtool: str) -> None:
    config = ROOT / "docker/prometheus/prometheus.yml"
    checked = subprocess.run([promtool, "check", "config", str(config)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr

"""A federation of real processes with a synthetic trainer, from preparation to the end of its run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich.console import Console

from benchmarks.shapes import SHAPES, adapter_spec
from benchmarks.usage import Usage, UsageWatch, watching
from common.adapter import WireDtype
from common.ids import digest_of
from common.terms import AggregationTerms, BaseModelTerms, GateMetric, GateTerms, LoraTerms, RoundTerms, Terms
from common.tls import Role
from coordinator.adapters.pki.ca import create_ca, issue
from demo.federation import loopback, run_prepared
from demo.policy import Egress, policy_tables
from demo.prepare import COORDINATOR_HOSTS, POLICY, Addresses, Prepared, write_toml
from demo.processes import process_group
from fedmedlora.v1 import admin_pb2

CONSORTIUM = "benchmark"


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticRun:
    """A run that has completed, how many parameters its adapter has, and what it took of the coordinator and a site."""

    run: admin_pb2.RunReport
    parameters: int
    coordinator: Usage
    site: Usage


def synthetic_federation(folder: Path, shape: str, lora: LoraTerms, *, sites: int, rounds: int) -> SyntheticRun:
    """Run ``rounds`` rounds of ``sites`` sites and an evaluator in ``folder``.

    Raises:
        RuntimeError: a process died, or the run did not complete.
    """
    names = [f"site-{number}" for number in range(1, sites + 1)]
    addresses = loopback(sites + 1)
    prepared = prepare(folder, synthetic_terms(lora, names, rounds), addresses, trainer_of(shape, "ONCE"))
    with (
        process_group(folder / "logs") as group,
        watching(UsageWatch(lambda: group.pid_of("coordinator"))) as coordinator,
        watching(UsageWatch(lambda: group.pid_of(names[0]))) as site,
    ):
        run = run_prepared(prepared, addresses, group, Console(file=sys.stderr, quiet=True))
    parameters = adapter_spec(SHAPES[shape], lora, WireDtype.BF16).parameters
    return SyntheticRun(run=run, parameters=parameters, coordinator=coordinator.last, site=site.last)


def synthetic_terms(
    lora: LoraTerms, sites: Sequence[str], rounds: int, wire_dtype: WireDtype = WireDtype.BF16
) -> Terms:
    """Terms of a run without a model and without a gate, of which every site is wanted in every round."""
    digest = digest_of(b"no base model")
    base_model = BaseModelTerms(
        name="synthetic", weights_digest=digest, tokenizer_digest=digest, chat_template_digest=digest
    )
    return Terms(
        name="synthetic",
        base_model=base_model,
        lora=lora,
        aggregation=AggregationTerms(wire_dtype=wire_dtype),
        rounds=RoundTerms(count=rounds, quorum=len(sites), sites=tuple(sites)),
        gate=GateTerms(metric=GateMetric.NONE),
    )


def trainer_of(shape: str, copied: Literal["EACH", "ONCE"]) -> tuple[str, ...]:
    """The command of the synthetic trainer for adapters of ``shape``; whether it copies one in each round, or once."""
    return ("/bin/sh", str(Path(__file__).with_name("synthetic_trainer.sh")), sys.executable, shape, copied)


def prepare(folder: Path, terms: Terms, addresses: Addresses, trainer: Sequence[str]) -> Prepared:
    """Certificates and configurations of a federation whose sites and evaluator run ``trainer``."""
    create_ca(folder / "ca", CONSORTIUM)
    issue(folder / "ca", "coordinator", Role.COORDINATOR, folder / "coordinator/identity", hosts=COORDINATOR_HOSTS)
    issue(folder / "ca", "operator", Role.OPERATOR, folder / "operator/identity")
    config = write_toml(
        folder / "coordinator" / "coordinator.toml",
        {
            "coordinator": {"listen": addresses.coordinator_listen, "state_folder": "state"},
            "identity": {"folder": "identity"},
            "metrics": {"listen": ""},
        },
    )
    names = {**dict.fromkeys(terms.rounds.sites, Role.SITE), "evaluator": Role.EVALUATOR}
    return Prepared(
        root=folder / "ca",
        coordinator_config=config,
        agent_configs={
            name: _agent(folder / "agents" / name, trainer, role, addresses, terms) for name, role in names.items()
        },
        operator_identity=folder / "operator" / "identity",
        state=folder / "coordinator" / "state",
        terms=terms,
        corpora=(),
    )


def _agent(home: Path, trainer: Sequence[str], role: Role, addresses: Addresses, terms: Terms) -> Path:
    issue(home.parents[1] / "ca", home.name, role, home / "identity")
    notes = home / "notes.jsonl"
    notes.touch()
    head, policy = policy_tables(terms, CONSORTIUM, "localhost", Egress(max_norm=1e12))
    write_toml(home / POLICY, policy, head)
    return write_toml(
        home / "site.toml",
        {
            "coordinator": {"address": addresses.coordinator, "server_name": "localhost"},
            "identity": {"folder": "identity"},
            "site": {"state_folder": "state"},
            "base_model": {"location": "."},
            "data": {"train": ["notes.jsonl"], "validation": ["notes.jsonl"]},
            "trainer": {"command": list(trainer)},
            "policy": {"file": POLICY},
            "metrics": {"listen": ""},
        },
    )

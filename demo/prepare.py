"""Makes everything a federation needs before it starts: its CAs, notes, configurations, terms.

::

    <out>/ca                                         the consortium's root
    <out>/coordinator/{identity/, issuing_ca/, coordinator.toml}  and later state/
    <out>/operator/{identity/, terms.toml}           and a mark that the folder is a demo's
    <out>/agents/<name>/{site.toml, policy.toml}     generated notes, and later identity/ and state/

Each folder holds what one trust position may see, and its configuration names nothing outside it but the base model
(and corpora that the user brought), so that a folder can be mounted into a container of its own. Agents have no
identity yet: they enrol (`demo/enrolment.py`), and make their keys themselves.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from common.terms import (
    STRATEGIES_WITH_PARAMETERS,
    AdmissionTerms,
    AggregationTerms,
    GateMetric,
    GateTerms,
    LoraTerms,
    RoundTerms,
    Schedule,
    TaskTerms,
    Terms,
    TrainingTerms,
)
from common.tls import Role
from coordinator.adapters.pki.ca import create_ca, create_issuing_ca, issue
from coordinator.adapters.pki.key_certification import make_signing_key
from demo.corpora import SiteCorpus, corpora_of, site_names
from demo.options import DemoOptions
from demo.policy import Egress, policy_tables
from site_agent.trainer.base_model_files import describe_base_model, resolve_base_model

CONSORTIUM = "demo"
# Says that a folder is a demo's to empty. Not in the folder itself, which containers cannot write to: its folders are
# mounted.
MARK = Path("operator/made-by-the-demo")
EVALUATOR = "evaluator"
IDENTITY = "identity"
VALIDATION_PASSAGES = 30
ENTITY_TYPES = ("drug", "problem", "test", "treatment")
CORPORA_TYPES = ("drug", "problem")  # what all of the corpora annotate
# Their annotators follow different guidelines, and a mean of three sites learns a third of each in a round: carried on
# over the rounds, that comes to its full size.
CORPORA_MOMENTUM = 0.7
CERTIFICATE_LIFE = timedelta(days=7)
COORDINATOR_HOSTS = ("localhost", "127.0.0.1", "coordinator")
POLICY = "policy.toml"
# Of so few examples a site of the demo tells nothing. All tell everything that is measured, so that a demo shows it.
SMALLEST_CELL = 5
_DURATIONS = ("train_deadline", "grace", "evaluate_deadline")


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where the demo's processes listen.

    Attributes:
        enrolment_listen: Where the coordinator lets agents enrol; empty: nowhere.
        metrics: The coordinator's first, then one an agent, the evaluator's last.
        base_model: Where the agents find the base model; empty: where this process does.
    """

    coordinator: str
    coordinator_listen: str
    enrolment_listen: str = ""
    metrics: Sequence[str]
    base_model: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A federation that only needs to be started. An agent without an identity enrols first.

    Attributes:
        root: The folder of the CA that everyone trusts, which no process is given.
    """

    root: Path
    coordinator_config: Path
    agent_configs: Mapping[str, Path]
    operator_identity: Path
    state: Path
    terms: Terms
    corpora: tuple[SiteCorpus, ...]


def prepare(options: DemoOptions, addresses: Addresses) -> Prepared:
    """Make the demo's folder anew, once everything that it is made of was found.

    Raises:
        InputInvalidError: the base model cannot be used.
        RuntimeError: ``options.out`` holds files and is not a demo's folder.
    """
    terms = demo_terms(options, site_names(options))
    _empty(options.out)
    _found_consortium(options.out)
    corpora = corpora_of(options, options.out / "agents")
    write_terms(options.out / "operator" / "terms.toml", terms)
    return Prepared(
        root=options.out / "ca",
        coordinator_config=_coordinator(options, addresses),
        agent_configs=_agents(options, addresses, corpora, terms),
        operator_identity=options.out / "operator" / "identity",
        state=options.out / "coordinator" / "state",
        terms=terms,
        corpora=corpora,
    )


def demo_terms(options: DemoOptions, sites: Sequence[str]) -> Terms:
    """The terms of the demo's run: small enough for two CPU cores (``docs/performance.md`` has what they cost)."""
    folder = resolve_base_model(options.base_model)
    return Terms(
        name="demo",
        base_model=describe_base_model(folder, folder.name),
        lora=LoraTerms(lora_rank=8, lora_alpha=32),
        task=TaskTerms(entity_types=ENTITY_TYPES if options.data is None else CORPORA_TYPES, max_new_tokens=96),
        training=TrainingTerms(
            learning_rate=1.5e-4,
            lora_plus_ratio=16.0,
            schedule=Schedule.LINEAR,
            warmup_ratio=0.05,
            batch_size=4,
            max_length=640,
            examples_per_round=options.examples_per_round,
            seed=options.seed,
        ),
        # So that whoever is given the release can tell that each update is its site's, and each aggregate theirs.
        admission=AdmissionTerms(requires_signatures=True),
        aggregation=AggregationTerms(server_momentum=0.0 if options.data is None else CORPORA_MOMENTUM),
        rounds=RoundTerms(
            count=options.rounds,
            quorum=max(1, len(sites) - 1),
            sites=tuple(sorted(sites)),
            train_deadline=3600.0,
            grace=1800.0,
            evaluate_deadline=3600.0,
            keeps_updates=True,
        ),
        gate=GateTerms(metric=GateMetric.LOSS),
    )


def _empty(out: Path) -> None:
    """Remove what an earlier demo left, and nothing else; the folder itself and mounted folders in it stay."""
    mark = out / MARK
    if out.exists() and not out.is_dir():
        raise RuntimeError(f"expected a folder for the demo, got a file: {out}")
    if not mark.exists() and not all(map(_is_folder, out.rglob("*"))):
        raise RuntimeError(f"{out} holds files that no demo made: name an empty or a new folder, or empty it yourself")
    mark.parent.mkdir(parents=True, exist_ok=True)
    mark.write_text("A demo made the folder above, and the next one empties it.\n", encoding="utf-8")
    for path in sorted(out.rglob("*"), reverse=True):  # what is in a folder before the folder
        if _is_folder(path):
            with suppress(OSError):  # it is mounted, or holds one that is, or the mark
                path.rmdir()
        elif path != mark:
            path.unlink()


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _found_consortium(out: Path) -> None:
    """What ``fedmed-coordinator init`` makes: root, issuing CA, and the identities of coordinator and operator."""
    root, issuing = out / "ca", out / "coordinator" / "issuing_ca"
    create_ca(root, CONSORTIUM)
    create_issuing_ca(root, issuing)
    identity = out / "coordinator" / "identity"
    holder = issue(
        issuing, "coordinator", Role.COORDINATOR, identity, hosts=COORDINATOR_HOSTS, lifetime=CERTIFICATE_LIFE
    )
    make_signing_key(root, holder, identity)
    issue(issuing, "operator", Role.OPERATOR, out / "operator" / "identity", lifetime=CERTIFICATE_LIFE)


def _coordinator(options: DemoOptions, addresses: Addresses) -> Path:
    tables = {
        "coordinator": {"listen": addresses.coordinator_listen, "state_folder": "state", "poll_hold": "10s"},
        "identity": {"folder": "identity"},
        "enrolment": {"listen": addresses.enrolment_listen, "issuing_ca": "issuing_ca"},
        "metrics": {"listen": addresses.metrics[0]},
    }
    return write_toml(options.out / "coordinator" / "coordinator.toml", tables)


def _agents(options: DemoOptions, addresses: Addresses, corpora: Sequence[SiteCorpus], terms: Terms) -> dict[str, Path]:
    files = {corpus.site: [corpus.train] for corpus in corpora}
    homes = {name: options.out / "agents" / name for name in (*files, EVALUATOR)}
    files[EVALUATOR] = [_brought(corpus, homes[EVALUATOR], options) for corpus in corpora]
    configs = {}
    for (name, home), listen in zip(homes.items(), addresses.metrics[1:], strict=True):
        role = Role.EVALUATOR if name == EVALUATOR else Role.SITE
        kind = "validation" if role is Role.EVALUATOR else "train"
        tables: dict[str, dict[str, object]] = {
            "coordinator": {"address": addresses.coordinator},
            "identity": {"folder": IDENTITY},
            "site": {"state_folder": "state"},
            "base_model": {"location": addresses.base_model or options.base_model},
            "data": {kind: [_seen_from(home, file) for file in files[name]], **_limits(role)},
            # Sites train at the same time; the evaluator works alone, on every core.
            "trainer": {"device": options.device, "threads": 0 if role is Role.EVALUATOR else 1},
            "policy": {"file": POLICY},
            "metrics": {"listen": listen},
        }
        host = addresses.coordinator.rpartition(":")[0]
        head, policy = policy_tables(terms, CONSORTIUM, host, _egress(role))
        write_toml(home / POLICY, policy, head)
        configs[name] = write_toml(home / "site.toml", tables)
    return configs


def _egress(role: Role) -> Egress:
    """The evaluator's notes are the consortium's own, so that it need not keep a small count back."""
    return Egress() if role is Role.EVALUATOR else Egress(min_examples=SMALLEST_CELL, smallest_cell=SMALLEST_CELL)


def _limits(role: Role) -> dict[str, int]:
    return {"validation_passages": VALIDATION_PASSAGES} if role is Role.EVALUATOR else {}


def _seen_from(home: Path, file: Path) -> str:
    return str(file.relative_to(home) if file.is_relative_to(home) else file)


def _brought(corpus: SiteCorpus, home: Path, options: DemoOptions) -> Path:
    """The evaluator's part of a corpus: where the user keeps it, or brought from the site it was generated for."""
    if options.data is not None:
        return corpus.dev
    home.mkdir(parents=True, exist_ok=True)
    return Path(shutil.move(corpus.dev, home / f"{corpus.site}.jsonl"))  # maybe onto another volume


def write_terms(path: Path, terms: Terms) -> None:
    """The file that the operator creates the run from."""
    tables = dataclasses.asdict(terms)
    name = tables.pop("name")
    for duration in _DURATIONS:
        tables["rounds"][duration] = f"{tables['rounds'][duration]:g}s"
    for parameters in STRATEGIES_WITH_PARAMETERS:  # a table of their own, or nothing
        values = tables["aggregation"].pop(parameters)
        if values is not None:
            tables[f"aggregation.{parameters}"] = values
    write_toml(path, tables, head=f"name = {json.dumps(name)}")


def write_toml(path: Path, tables: Mapping[str, Mapping[str, object]], head: str = "") -> Path:
    """TOML of plain tables: TOML writes strings, numbers, booleans and lists of strings as JSON does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [head] if head else []
    for table, keys in tables.items():
        lines.append(f"[{table}]")
        lines.extend(f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in keys.items())
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path

"""Small values of the coordinator's domain, for tests: terms, a specification, a run at any point. Opens nothing."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from common.adapter import A_SUFFIX, B_SUFFIX, AdapterSpec, TensorSpec, WireDtype
from common.ids import AssignmentId, Digest, RunId, SiteName, digest_of
from common.terms import AggregationTerms, BaseModelTerms, GateTerms, LoraTerms, RoundTerms, Terms
from coordinator.domain import events as ev
from coordinator.domain import run_machine
from coordinator.domain.cohort import train_assignment_id
from coordinator.domain.commands import Command
from coordinator.domain.values import AdapterFile, F1Score, Round, Run, Scores, Update

START = datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=UTC)
RUN_ID = RunId("0123456789abcdef0123456789abcdef")
ANNA, BERTA, CLARA = SiteName("anna"), SiteName("berta"), SiteName("clara")
SITES = (ANNA, BERTA, CLARA)
EVALUATOR = SiteName("eva")
RANK, WIDTH, MODULES = 2, 6, 2


def at(seconds: float) -> datetime:
    """So many seconds after the start of the test's time."""
    return START + timedelta(seconds=seconds)


def digest(what: str) -> Digest:
    """A digest that is a function of ``what``."""
    return digest_of(what.encode())


def file(what: str = "first") -> AdapterFile:
    """An adapter file that exists by name only."""
    return AdapterFile(digest=digest(what), size_bytes=1000)


def make_terms(
    name: str = "trial",
    rounds: RoundTerms | None = None,
    gate: GateTerms | None = None,
    aggregation: AggregationTerms | None = None,
    lora: LoraTerms | None = None,
) -> Terms:
    """Terms of a run of two rounds with three sites and a quorum of two."""
    return Terms(
        name=name,
        base_model=BaseModelTerms(
            name="tiny",
            weights_digest=digest("weights"),
            tokenizer_digest=digest("tokenizer"),
            chat_template_digest=digest("template"),
        ),
        lora=lora or LoraTerms(lora_rank=RANK, lora_alpha=8, target_modules=("q_proj", "v_proj")),
        rounds=rounds or make_round_terms(),
        gate=gate or GateTerms(),
        aggregation=aggregation or AggregationTerms(),
    )


def make_round_terms(count: int = 2, quorum: int = 2, sites: tuple[str, ...] = SITES) -> RoundTerms:
    """Deadlines that are told apart at a glance: train 1000 s, grace 100 s, evaluate 10,000 s."""
    return RoundTerms(
        count=count, quorum=quorum, sites=sites, train_deadline=1000.0, grace=100.0, evaluate_deadline=10_000.0
    )


def make_spec(modules: int = MODULES, width: int = WIDTH, dtype: WireDtype = WireDtype.BF16) -> AdapterSpec:
    """An adapter of ``modules`` modules with factors of ``(RANK, width)`` and ``(width + 1, RANK)``."""
    names = [f"base_model.model.layers.{layer:03d}.self_attn.q_proj" for layer in range(modules)]
    tensors = [
        tensor
        for name in names
        for tensor in (
            TensorSpec(name=name + A_SUFFIX, shape=(RANK, width)),
            TensorSpec(name=name + B_SUFFIX, shape=(width + 1, RANK)),
        )
    ]
    return AdapterSpec(
        lora_rank=RANK, lora_alpha=8, target_modules=("q_proj", "v_proj"), dtype=dtype, tensors=tuple(tensors)
    )


def make_update(what: str = "update", num_examples: int = 10, num_label_tokens: int = 100) -> Update:
    """An update that exists by name only."""
    return Update(file=file(what), num_examples=num_examples, num_label_tokens=num_label_tokens)


def make_scores(f1_tenths: int = 5, mean_loss: float = 1.0) -> Scores:
    """Scores with a strict F1 of so many tenths, and a lenient one a tenth above."""
    return Scores(
        mean_loss=mean_loss,
        num_examples=20,
        num_label_tokens=200,
        strict=F1Score(true_positives=f1_tenths, predicted=10, gold=10),
        lenient=F1Score(true_positives=min(10, f1_tenths + 1), predicted=10, gold=10),
    )


def everyone_present(seconds: float = 0, present: tuple[SiteName, ...] = SITES) -> ev.PresenceObserved:
    """The sites of ``present`` are there, all three are enrolled."""
    return ev.PresenceObserved(
        at=at(seconds), present=frozenset(present), enrolled=frozenset(SITES), evaluators=frozenset({EVALUATOR})
    )


def accepted(
    site: SiteName, round_number: int = 1, seconds: float = 10, update: Update | None = None
) -> ev.UpdateAccepted:
    """The site's update passed admission."""
    update = update or make_update(f"{site} {round_number}")
    return ev.UpdateAccepted(at=at(seconds), assignment_id=train_id(site, round_number), update=update)


def train_id(site: SiteName, round_number: int = 1) -> AssignmentId:
    """The site's assignment in the run of these tests."""
    return train_assignment_id(RUN_ID, round_number, site)


def candidate_ready(run: Run, seconds: float = 20) -> ev.CandidateReady:
    """The accepted updates of the open round are combined, with equal weights."""
    current = open_round_of(run)
    sites = [entry.site for entry in current.accepted]
    return ev.CandidateReady(
        at=at(seconds),
        round_number=current.number,
        candidate=file(f"candidate {current.number}"),
        weights=tuple((site, 1 / len(sites)) for site in sites),
    )


def scored(round_number: int = 1, seconds: float = 30, f1_tenths: int = 5) -> ev.ScoresReported:
    """An evaluator's scores."""
    return ev.ScoresReported(at=at(seconds), round_number=round_number, scores=make_scores(f1_tenths))


def published(round_number: int = 1, seconds: float = 40) -> ev.Published:
    """The round's version is in the registry."""
    return ev.Published(at=at(seconds), round_number=round_number)


def first_adapter(seconds: float = 0) -> ev.FirstAdapterReceived:
    """An evaluator's first adapter."""
    return ev.FirstAdapterReceived(at=at(seconds), adapter=file("first"), spec=make_spec())


def new_run(terms: Terms | None = None) -> Run:
    """A run that waits for its first adapter."""
    return run_machine.create_run(RUN_ID, terms or make_terms(), START)


def selecting_run(terms: Terms | None = None) -> Run:
    """A run whose first round waits for sites."""
    return after(new_run(terms), first_adapter())


def training_run(terms: Terms | None = None) -> Run:
    """A run whose first round has invited all three sites."""
    return after(selecting_run(terms), everyone_present())


def aggregating_run(terms: Terms | None = None) -> Run:
    """A run whose first round has all three updates."""
    return after(training_run(terms), *(accepted(site) for site in SITES))


def evaluating_run(terms: Terms | None = None) -> Run:
    """A run whose first round has a candidate that waits for its scores."""
    run = aggregating_run(terms)
    return after(run, candidate_ready(run))


def after(run: Run, *events: ev.RunEvent) -> Run:
    """The run after those events."""
    for event in events:
        run, _ = run_machine.step(run, event)
    return run


def commands_of(run: Run, event: ev.RunEvent) -> tuple[Command, ...]:
    """What one event asks the shell to do."""
    return run_machine.step(run, event)[1]


def open_round_of(run: Run) -> Round:
    """The run's open round."""
    assert run.current is not None
    return run.current


def with_rounds(terms: Terms, rounds: RoundTerms) -> Terms:
    """``terms`` with other rounds."""
    return replace(terms, rounds=rounds)

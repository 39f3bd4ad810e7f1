"""The terms of a run: what a site agrees to, as one value with one digest. Reads no file and no clock.

Both sides hold them: the coordinator makes rounds from them, a site computes the digest for itself before it joins.
Durations are seconds. Every bound that a value must keep is in :func:`check_terms`.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from operator import attrgetter
from typing import Any, get_args, get_type_hints

from common import strategy_terms as of
from common.adapter import MAX_LORA_RANK, MAX_NAME_LENGTH, WireDtype
from common.added_later import ADDED_LATER
from common.errors import InputInvalidError, Reason
from common.gate_terms import GateMetric as GateMetric
from common.gate_terms import GateTerms as GateTerms
from common.gate_terms import OnEvaluatorAbsent as OnEvaluatorAbsent
from common.gate_terms import OnRejection as OnRejection
from common.ids import Digest, check_digest, check_name, digest_of
from common.task_terms import PromptForm as PromptForm
from common.task_terms import Task as Task
from common.task_terms import TaskTerms as TaskTerms

MAX_BASE_MODEL_NAME = 200
# Lists of names reach prompts, cards and every assignment, which must stay far below the largest message.
MAX_ENTITY_TYPES, MAX_ENTITY_TYPE_LENGTH = 200, 100
MAX_TARGET_MODULES = 200
MAX_SITES = 5_000


class LossOn(StrEnum):
    """Which tokens count in the loss."""

    ANSWER = "answer"
    PROMPT_AND_ANSWER = "prompt_and_answer"


class Schedule(StrEnum):
    """Learning-rate schedule over one round, after the warm-up."""

    CONSTANT = "constant"
    LINEAR = "linear"
    COSINE = "cosine"


class Quantization(StrEnum):
    """How the frozen base weights are held."""

    NONE = "none"
    NF4 = "nf4"


class WeightBy(StrEnum):
    """What a site's weight in the aggregate is proportional to."""

    LABEL_TOKENS = "label_tokens"
    EXAMPLES = "examples"
    UNIFORM = "uniform"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseModelTerms:
    """The base model by name and digests (see ``fedmed-site model digest``)."""

    name: str
    weights_digest: Digest
    tokenizer_digest: Digest
    chat_template_digest: Digest


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraTerms:
    """LoRA settings in peft's names; bias is always ``none``.

    Attributes:
        least_lora_rank: Sites may train at any rank from this to ``lora_rank``, as their own policy allows; 0: all at
            ``lora_rank``. ``lora_alpha`` is that of every rank.
    """

    lora_rank: int = 16
    lora_alpha: int = 64
    lora_dropout: float = 0.0
    target_modules: tuple[str, ...] = (
        "down_proj",
        "gate_proj",
        "k_proj",
        "o_proj",
        "q_proj",
        "up_proj",
        "v_proj",
    )
    least_lora_rank: int = field(default=0, metadata=ADDED_LATER)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingTerms:
    """How each site trains in one round; optimiser (AdamW) and schedule start afresh each round.

    Attributes:
        lora_plus_ratio: Learning rate of B over that of A (LoRA+, arXiv 2402.12354); 1 is plain LoRA. The less the A of
            the sites drift apart, the less the mean of factors differs from the mean of products.
        batch_size: At most so many examples a step.
        tokens_per_batch: At most so many tokens a step, padding included.
        max_length: Examples longer than this many tokens are left out and counted.
        proximal_mu: What a site's distance from the global adapter costs: loss + mu/2 |x - x_global|^2 (FedProx, arXiv
            1812.06127); 0, nothing.
        examples_per_round: At most so many sentence-level examples a round; 0 means all. Round r takes the r-th slice
            of the seeded order, wrapping around.
        max_empty_share: At most this share of a task's examples has nothing to find, and the other ones of these are
            left out; 0: as many as there are. Small models that mostly see empty answers learn to give no other.
    """

    local_epochs: int = 1
    learning_rate: float = 2e-4
    lora_plus_ratio: float = 1.0
    schedule: Schedule = Schedule.COSINE
    warmup_ratio: float = 0.05
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    batch_size: int = 4
    tokens_per_batch: int = 2048
    max_length: int = 800
    loss_on: LossOn = LossOn.ANSWER
    quantization: Quantization = Quantization.NONE
    gradient_checkpointing: bool = False
    examples_per_round: int = 0
    seed: int = 0
    proximal_mu: float = field(default=0.0, metadata=ADDED_LATER)
    max_empty_share: float = field(default=0.0, metadata=ADDED_LATER)


@dataclass(frozen=True, slots=True, kw_only=True)
class AggregationTerms:
    """How updates are combined: the strategy by name; how much of its last move a round repeats.

    Each further field has the name of a strategy and holds its parameters: set for the strategy named, None for others.
    """

    strategy: str = "fed_medlora"
    weight_by: WeightBy = WeightBy.LABEL_TOKENS
    wire_dtype: WireDtype = WireDtype.BF16
    server_momentum: float = 0.0
    fed_medlora_plus: of.FedMedLoraPlusTerms | None = None
    fedex_lora: of.FedExLoraTerms | None = None
    fedadagrad: of.FedAdagradTerms | None = None
    fedadam: of.FedAdamTerms | None = None
    fedavgm: of.FedAvgMTerms | None = None
    fedsa_lora: of.FedSaLoraTerms | None = None
    fedyogi: of.FedYogiTerms | None = None
    flora: of.FloraTerms | None = None
    hetlora: of.HetLoraTerms | None = None
    krum: of.KrumTerms | None = None
    lora_fair: of.LoraFairTerms | None = None
    norm_bound: of.NormBoundTerms | None = None
    trimmed_mean: of.TrimmedMeanTerms | None = None


# The strategies that have parameters, and the kind of these.
STRATEGIES_WITH_PARAMETERS: Mapping[str, Any] = {
    name: get_args(hint)[0] for name, hint in get_type_hints(AggregationTerms).items() if get_args(hint)
}


def parameter_fields() -> Iterator[tuple[str, dataclasses.Field[float]]]:
    """The path of its section, and the field, of every parameter (`strategy_terms.parameter`) of every strategy."""
    for name, kind in STRATEGIES_WITH_PARAMETERS.items():
        yield from ((f"aggregation.{name}", each) for each in dataclasses.fields(kind))


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmissionTerms:
    """Bounds on what an update may claim, and whether its site must sign it."""

    max_num_examples: int = 10_000_000
    max_num_label_tokens: int = 10_000_000_000
    requires_signatures: bool = field(default=False, metadata=ADDED_LATER)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTerms:
    """How many rounds, with whom, and the deadlines (seconds; design.md section 4).

    Attributes:
        keeps_updates: The updates of a round that ended with a candidate are not deleted, so that anybody who is given
            them can compute it again.
    """

    count: int = 3
    quorum: int = 2
    sites: tuple[str, ...] = ()  # empty: every enrolled site
    train_deadline: float = 86_400.0
    grace: float = 600.0
    evaluate_deadline: float = 14_400.0
    keeps_updates: bool = field(default=False, metadata=ADDED_LATER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a run is. Two runs with equal terms have equal digests."""

    name: str
    base_model: BaseModelTerms
    lora: LoraTerms = field(default_factory=LoraTerms)
    task: TaskTerms = field(default_factory=TaskTerms)
    training: TrainingTerms = field(default_factory=TrainingTerms)
    aggregation: AggregationTerms = field(default_factory=AggregationTerms)
    admission: AdmissionTerms = field(default_factory=AdmissionTerms)
    rounds: RoundTerms = field(default_factory=RoundTerms)
    gate: GateTerms = field(default_factory=GateTerms)

    @property
    def published_rank(self) -> int:
        """The rank of every candidate: what the strategy's parameters say, or else that of training."""
        parameters = getattr(self.aggregation, self.aggregation.strategy, None)
        return int(getattr(parameters, "published_rank", self.lora.lora_rank))

    @property
    def canonical(self) -> bytes:
        """The one byte string of these terms: JSON, sorted keys, no spaces (floats as Python's shortest repr)."""
        return json.dumps(_document(self), sort_keys=True, separators=(",", ":")).encode()

    @property
    def digest(self) -> Digest:
        """SHA-256 of :attr:`canonical`."""
        return digest_of(self.canonical)


def _document(section: Any) -> dict[str, Any]:
    """A section as JSON has it. A float field holds a float even when an int was given, since 0 and 0.0 are equal.

    What is None is left out, and what was ADDED_LATER and has its default: terms that do without it keep their digest.
    """
    document = {}
    for each in dataclasses.fields(section):
        value = getattr(section, each.name)
        if value is None or (each.metadata == ADDED_LATER and value == each.default):
            continue
        if dataclasses.is_dataclass(value):
            value = _document(value)
        document[each.name] = float(value) if each.type == "float" else value
    return document


# (section, field, least, greatest): every number of the terms, with the bounds it must keep.
_BOUNDS: tuple[tuple[str, str, float, float], ...] = (
    ("lora", "lora_rank", 1, MAX_LORA_RANK),
    ("lora", "least_lora_rank", 0, MAX_LORA_RANK),
    ("lora", "lora_alpha", 1, 65_536),
    ("lora", "lora_dropout", 0, 0.9),
    ("task", "max_new_tokens", 1, 8192),
    ("training", "local_epochs", 1, 100),
    ("training", "learning_rate", 1e-9, 1.0),
    ("training", "lora_plus_ratio", 1, 100),
    ("training", "warmup_ratio", 0, 1),
    ("training", "weight_decay", 0, 1),
    ("training", "max_grad_norm", 1e-6, 1e6),
    ("training", "batch_size", 1, 4096),
    ("training", "tokens_per_batch", 16, 10_000_000),
    ("training", "max_length", 16, 131_072),
    ("training", "examples_per_round", 0, 10_000_000),
    ("training", "seed", 0, 2**53),
    ("training", "proximal_mu", 0, 1e6),
    ("training", "max_empty_share", 0, 0.99),
    ("aggregation", "server_momentum", 0, 0.99),
    ("admission", "max_num_examples", 1, 2**53),
    ("admission", "max_num_label_tokens", 1, 2**53),
    ("rounds", "count", 1, 10_000),
    ("rounds", "quorum", 1, 10_000),
    ("rounds", "train_deadline", 1, 30 * 86_400),
    ("rounds", "grace", 0, 30 * 86_400),
    ("rounds", "evaluate_deadline", 1, 30 * 86_400),
    ("gate", "min_improvement", -1e6, 1e6),
    *((section, each.name, each.metadata["least"], each.metadata["greatest"]) for section, each in parameter_fields()),
)


def check_terms(terms: Terms) -> Terms:
    """Return ``terms`` if every value keeps its bound; all problems are listed together.

    Raises:
        InputInvalidError: TERMS_INVALID.
    """
    problems = [
        *_number_problems(terms),
        *_name_problems(terms),
        *_list_problems(terms),
        *_relation_problems(terms),
        *_task_problems(terms),
    ]
    if problems:
        raise InputInvalidError(Reason.TERMS_INVALID, "; ".join(problems))
    return terms


def _number_problems(terms: Terms) -> list[str]:
    problems = []
    for section, name, least, greatest in _BOUNDS:
        values = attrgetter(section)(terms)
        if values is None:
            continue
        value = getattr(values, name)
        if not math.isfinite(value) or not least <= value <= greatest:
            problems.append(f"{section}.{name}: expected {least:g} to {greatest:g}, got {value!r}")
    return problems


def _name_problems(terms: Terms) -> list[str]:
    problems = []
    if not 1 <= len(terms.base_model.name) <= MAX_BASE_MODEL_NAME or not terms.base_model.name.isprintable():
        problems.append(f"base_model.name: expected 1 to {MAX_BASE_MODEL_NAME} printable characters")
    if not {"", ".", ".."}.isdisjoint(terms.base_model.name.split("/")):  # peft takes it for a folder, if there is one
        problems.append("base_model.name: expected a name such as 'model' or 'owner/model', got a path")
    checks = [(terms.name, "name"), *((site, "rounds.sites") for site in terms.rounds.sites)]
    for value, what in checks:
        try:
            check_name(value, what)
        except InputInvalidError as error:
            problems.append(error.message)
    model = terms.base_model
    digests = {
        "base_model.weights_digest": model.weights_digest,
        "base_model.tokenizer_digest": model.tokenizer_digest,
        "base_model.chat_template_digest": model.chat_template_digest,
        **({"gate.test_digest": terms.gate.test_digest} if terms.gate.test_digest else {}),
    }
    for what, digest in digests.items():
        try:
            check_digest(digest, what)
        except InputInvalidError as error:
            problems.append(error.message)
    return problems


def _list_problems(terms: Terms) -> list[str]:
    """Lists of names: how many, how long, and nothing that a terminal or a prompt could take for more than a name."""
    lists = (
        ("lora.target_modules", terms.lora.target_modules, MAX_TARGET_MODULES, MAX_NAME_LENGTH),
        ("task.entity_types", terms.task.entity_types, MAX_ENTITY_TYPES, MAX_ENTITY_TYPE_LENGTH),
        ("task.relation_types", terms.task.relation_types, MAX_ENTITY_TYPES, MAX_ENTITY_TYPE_LENGTH),
    )
    problems = []
    for what, values, most, longest in lists:
        if len(values) > most:
            problems.append(f"{what}: expected at most {most} names, got {len(values)}")
        if not all(1 <= len(name) <= longest and name.isprintable() and name == name.strip() for name in values):
            problems.append(f"{what}: expected names of 1 to {longest} printable characters")
    if len(terms.rounds.sites) > MAX_SITES:
        problems.append(f"rounds.sites: expected at most {MAX_SITES} sites, got {len(terms.rounds.sites)}")
    return problems


def _relation_problems(terms: Terms) -> list[str]:
    problems = []
    named = terms.aggregation.strategy
    for name in STRATEGIES_WITH_PARAMETERS:
        is_set = getattr(terms.aggregation, name) is not None
        if is_set != (name == named):
            expected = "its parameters" if name == named else f"nothing, for the strategy is {named[:80]!r}"
            problems.append(f"aggregation.{name}: expected {expected}, got {'a value' if is_set else 'none'}")
    if terms.lora.least_lora_rank > terms.lora.lora_rank:
        problems.append(f"lora.least_lora_rank: expected at most lora_rank, got {terms.lora.least_lora_rank}")
    problems += of.parameter_problems(getattr(terms.aggregation, named, None), terms.lora.lora_rank, terms.rounds.count)
    if not terms.lora.target_modules or list(terms.lora.target_modules) != sorted(set(terms.lora.target_modules)):
        problems.append("lora.target_modules: expected at least one name, sorted, none twice")
    if not terms.task.entity_types or list(terms.task.entity_types) != sorted(set(terms.task.entity_types)):
        problems.append("task.entity_types: expected at least one type, sorted, none twice")
    if len(set(terms.rounds.sites)) != len(terms.rounds.sites):
        problems.append("rounds.sites: expected each site once")
    if terms.rounds.sites and terms.rounds.quorum > len(terms.rounds.sites):
        problems.append(
            f"rounds.quorum: expected at most the {len(terms.rounds.sites)} sites named, got {terms.rounds.quorum}"
        )
    return problems


def _task_problems(terms: Terms) -> list[str]:
    problems = []
    if list(terms.task.relation_types) != sorted(set(terms.task.relation_types)):
        problems.append("task.relation_types: expected them sorted, none twice")
    if not terms.task.tasks:
        problems.append("task.relations_only: expected relation types beside it, got none")
    asked = terms.gate.metric.task
    if asked is not None and asked not in terms.task.tasks:
        tasks = ", ".join(terms.task.tasks)
        problems.append(f"gate.metric: expected one of the run's tasks ({tasks}), got {terms.gate.metric}")
    return problems

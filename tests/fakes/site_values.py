"""Small values of the site agent's domain, for tests: terms, a specification, assignments. Opens nothing."""

from __future__ import annotations

from dataclasses import replace

from common.adapter import A_SUFFIX, B_SUFFIX, AdapterSpec, FactorSet, TensorSpec, WireDtype
from common.ids import AssignmentId, Digest, RunId, derived_id, digest_of
from common.terms import BaseModelTerms, LoraTerms, Terms
from site_agent.domain.assignment import (
    AdapterRef,
    Assignment,
    EvaluateWork,
    InitialiseWork,
    ScoreWork,
    TrainWork,
    Work,
)
from site_agent.domain.policy import unwritten_policy

RUN_ID = RunId("0123456789abcdef0123456789abcdef")
RANK, ALPHA, MODULES = 2, 8, ("q_proj", "v_proj")
# Whatever is asked for, as yesterday; but nobody has approved anything.
UNAPPROVED = unwritten_policy(
    kinds={"initialise", "train", "score", "evaluate"},
    strategies={"fed_medlora", "fed_medlora_plus", "fedex_lora", "fedsa_lora"},
)
EVERY_KIND = replace(UNAPPROVED, has_standing_approval=True)


def digest(what: str) -> Digest:
    """A digest that is a function of ``what``."""
    return digest_of(what.encode())


def make_terms(name: str = "trial") -> Terms:
    """Terms of a run with a small adapter."""
    return Terms(
        name=name,
        base_model=BaseModelTerms(
            name="tiny",
            weights_digest=digest("weights"),
            tokenizer_digest=digest("tokenizer"),
            chat_template_digest=digest("template"),
        ),
        lora=LoraTerms(lora_rank=RANK, lora_alpha=ALPHA, target_modules=MODULES),
    )


def make_spec(width: int = 6) -> AdapterSpec:
    """An adapter of two modules with factors of ``(RANK, width)`` and ``(width, RANK)``."""
    names = [f"base_model.model.layers.0.self_attn.{module}" for module in MODULES]
    tensors = [
        tensor
        for name in names
        for tensor in (
            TensorSpec(name=name + A_SUFFIX, shape=(RANK, width)),
            TensorSpec(name=name + B_SUFFIX, shape=(width, RANK)),
        )
    ]
    return AdapterSpec(
        lora_rank=RANK,
        lora_alpha=ALPHA,
        target_modules=MODULES,
        dtype=WireDtype.BF16,
        tensors=tuple(sorted(tensors)),
    )


def make_ref(spec: AdapterSpec, content: bytes | None = None) -> AdapterRef:
    """Names an adapter file of that shape, with ``content`` or none at all."""
    return AdapterRef(
        digest=digest("adapter") if content is None else digest_of(content),
        size_bytes=spec.data_bytes + 500 if content is None else len(content),
        spec_digest=spec.digest,
    )


def make_assignment(work: Work, number: int = 1) -> Assignment:
    """An assignment; two of different ``number`` have different ids."""
    return Assignment(
        assignment_id=AssignmentId(derived_id("assignment", number)),
        run_id=RUN_ID,
        round_number=0 if isinstance(work, InitialiseWork) else number,
        terms=make_terms(),
        deadline_at=1_767_323_045.5,
        work=work,
    )


def train_assignment(number: int = 1) -> Assignment:
    """Train and send both factors."""
    spec = make_spec()
    work = TrainWork(
        global_adapter=make_ref(spec),
        adapter_spec=spec,
        trained=FactorSet.A_AND_B,
        uploaded=FactorSet.A_AND_B,
    )
    return make_assignment(work, number)


def evaluate_assignment() -> Assignment:
    """Score a candidate."""
    spec = make_spec()
    return make_assignment(EvaluateWork(candidate=make_ref(spec), adapter_spec=spec))


def score_assignment() -> Assignment:
    """Score an update."""
    spec = make_spec()
    return make_assignment(ScoreWork(update=make_ref(spec), adapter_spec=spec))


def with_work(assignment: Assignment, **changes: object) -> Assignment:
    """The assignment with some fields of its work changed."""
    return replace(assignment, work=replace(assignment.work, **changes))  # type: ignore[arg-type]

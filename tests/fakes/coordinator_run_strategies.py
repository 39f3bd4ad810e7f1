"""Hypothesis strategies for whole runs: every field set to something, for tests that store and read them."""

from __future__ import annotations

import string
from datetime import timedelta

from hypothesis import strategies as st

from common.adapter import AdapterSpec, WireDtype
from common.errors import Reason
from common.given_under import GivenUnder, PolicyStand
from common.ids import AssignmentId, RunId, SiteName
from common.strategy_terms import FedMedLoraPlusTerms, KrumTerms, NormBoundTerms
from common.terms import (
    AdmissionTerms,
    AggregationTerms,
    BaseModelTerms,
    GateMetric,
    GateTerms,
    LoraTerms,
    LossOn,
    OnEvaluatorAbsent,
    OnRejection,
    PromptForm,
    Quantization,
    RoundTerms,
    Schedule,
    TaskTerms,
    Terms,
    TrainingTerms,
    WeightBy,
)
from coordinator.domain.values import (
    AdapterFile,
    AdapterPart,
    Deadline,
    DeadlineName,
    EvaluatorOutcome,
    F1Score,
    Phase,
    RosterEntry,
    Round,
    Run,
    RunState,
    Scores,
    Served,
    SiteOutcome,
    Update,
)
from tests.fakes.coordinator_values import START, digest, make_spec

COUNTS = st.integers(0, 2**53)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TIMES = st.integers(0, 2**52).map(lambda microseconds: START + timedelta(microseconds=microseconds))
DIGESTS = st.integers().map(lambda number: digest(str(number)))
HEX_IDS = st.integers(0, 16**32 - 1).map(lambda number: f"{number:032x}")
NAMES = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=63)
SITE_NAMES = NAMES.map(SiteName)
FILES = st.builds(AdapterFile, digest=DIGESTS, size_bytes=COUNTS)
REASONS = st.none() | st.sampled_from(Reason)

TERMS: st.SearchStrategy[Terms] = st.builds(
    Terms,
    name=NAMES,
    base_model=st.builds(
        BaseModelTerms,
        name=st.text(max_size=20),
        weights_digest=DIGESTS,
        tokenizer_digest=DIGESTS,
        chat_template_digest=DIGESTS,
    ),
    lora=st.builds(
        LoraTerms,
        lora_rank=COUNTS,
        lora_alpha=COUNTS,
        lora_dropout=NUMBERS,
        target_modules=st.lists(NAMES, max_size=3).map(tuple),
    ),
    task=st.builds(
        TaskTerms,
        entity_types=st.lists(NAMES, max_size=3).map(tuple),
        prompt_form=st.sampled_from(PromptForm),
        max_new_tokens=COUNTS,
    ),
    training=st.builds(
        TrainingTerms,
        local_epochs=COUNTS,
        learning_rate=NUMBERS,
        schedule=st.sampled_from(Schedule),
        loss_on=st.sampled_from(LossOn),
        quantization=st.sampled_from(Quantization),
        gradient_checkpointing=st.booleans(),
        seed=COUNTS,
        proximal_mu=NUMBERS,
        max_empty_share=NUMBERS,
    ),
    aggregation=st.builds(
        AggregationTerms,
        strategy=NAMES,
        weight_by=st.sampled_from(WeightBy),
        wire_dtype=st.sampled_from(WireDtype),
        server_momentum=NUMBERS,
        krum=st.none() | st.builds(KrumTerms, byzantine_count=COUNTS, selected_count=COUNTS),
        norm_bound=st.none() | st.builds(NormBoundTerms, max_norm=NUMBERS),
        fed_medlora_plus=st.none() | st.builds(FedMedLoraPlusTerms, size_exponent=NUMBERS, temperature=NUMBERS),
    ),
    admission=st.builds(AdmissionTerms, max_num_examples=COUNTS, max_num_label_tokens=COUNTS),
    rounds=st.builds(
        RoundTerms,
        count=COUNTS,
        quorum=COUNTS,
        sites=st.lists(NAMES, max_size=3).map(tuple),
        train_deadline=NUMBERS,
        grace=NUMBERS,
        evaluate_deadline=NUMBERS,
    ),
    gate=st.builds(
        GateTerms,
        metric=st.sampled_from(GateMetric),
        min_improvement=NUMBERS,
        on_rejection=st.sampled_from(OnRejection),
        on_evaluator_absent=st.sampled_from(OnEvaluatorAbsent),
    ),
)
SPECS: st.SearchStrategy[AdapterSpec] = st.builds(
    make_spec, modules=st.integers(1, 3), width=st.integers(1, 9), dtype=st.sampled_from(WireDtype)
)
F1_SCORES = st.none() | st.builds(F1Score, true_positives=COUNTS, predicted=COUNTS, gold=COUNTS)
SCORES = st.builds(
    Scores,
    mean_loss=NUMBERS,
    num_examples=COUNTS,
    num_label_tokens=COUNTS,
    strict=F1_SCORES,
    lenient=F1_SCORES,
    duration_seconds=NUMBERS,
)
UPDATES = st.builds(
    Update,
    file=FILES,
    num_examples=COUNTS,
    num_label_tokens=COUNTS,
    given_under=st.none() | st.builds(GivenUnder, stand=st.sampled_from(PolicyStand), digest=DIGESTS),
)
ROSTER_ENTRIES = st.builds(
    RosterEntry,
    site=SITE_NAMES,
    assignment_id=HEX_IDS.map(AssignmentId),
    outcome=st.sampled_from(SiteOutcome),
    reason=REASONS,
    update=st.none() | UPDATES,
    scores=st.none() | SCORES,
    weight=NUMBERS,
    lora_rank=st.none() | COUNTS,
)
PARTS = st.builds(
    AdapterPart,
    part_id=HEX_IDS.map(AssignmentId),
    source=FILES.map(lambda file: file.digest),
    start=COUNTS,
    stop=COUNTS,
    file=FILES,
)
DEADLINES = st.lists(st.builds(Deadline, name=st.sampled_from(DeadlineName), at=TIMES), max_size=2).map(tuple)
EVALUATOR_OUTCOMES = st.lists(
    st.builds(
        EvaluatorOutcome,
        evaluator=SITE_NAMES,
        outcome=st.sampled_from([SiteOutcome.DECLINED, SiteOutcome.REFUSED]),
        reason=st.sampled_from(Reason),
    ),
    max_size=2,
).map(tuple)


def rounds(number: int) -> st.SearchStrategy[Round]:
    """Rounds of that number, wherever they stand."""
    return st.builds(
        Round,
        number=st.just(number),
        phase=st.sampled_from(Phase),
        global_adapter=FILES,
        opened_at=TIMES,
        roster=st.lists(ROSTER_ENTRIES, max_size=3).map(tuple),
        deadlines=DEADLINES,
        candidate=st.none() | FILES,
        parts=st.lists(PARTS, max_size=2).map(tuple),
        state=st.none() | FILES,
        is_partial=st.booleans(),
        scores=st.none() | SCORES,
        evaluator_outcomes=EVALUATOR_OUTCOMES,
        is_unscored=st.booleans(),
        is_weighed_by_size=st.booleans(),
        reason=REASONS,
        closed_at=st.none() | TIMES,
    )


def runs() -> st.SearchStrategy[Run]:
    """Runs of up to three rounds, wherever they stand; not all of them are reachable."""
    return st.builds(
        Run,
        run_id=HEX_IDS.map(RunId),
        terms=TERMS,
        state=st.sampled_from(RunState),
        created_at=TIMES,
        spec=st.none() | SPECS,
        first_adapter=st.none() | FILES,
        served=st.none() | st.builds(Served, adapter=FILES, version=COUNTS),
        rounds=st.integers(0, 3).flatmap(lambda count: st.tuples(*(rounds(n + 1) for n in range(count)))),
        deadlines=DEADLINES,
        evaluator_outcomes=EVALUATOR_OUTCOMES,
        reason=REASONS,
        ended_at=st.none() | TIMES,
        paused_at=st.none() | TIMES,
    )

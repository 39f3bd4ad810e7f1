from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from common import strategy_terms
from common import terms as terms_module
from common.adapter import AdapterSpec, TensorSpec, WireDtype, check_spec
from common.errors import InputInvalidError, Reason
from common.ids import digest_of
from common.terms import (
    STRATEGIES_WITH_PARAMETERS,
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
    check_terms,
)
from common.wire import spec_from_proto, spec_to_proto, terms_from_proto, terms_to_proto
from fedmedlora.v1 import types_pb2

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
LETTERS = st.characters(codec="utf-8", categories=("L", "N", "P", "S"))
WORDS = st.lists(st.text(LETTERS, min_size=1, max_size=6), min_size=1, max_size=4, unique=True)
NO_WORDS: st.SearchStrategy[tuple[str, ...]] = st.just(())
SORTED_WORDS = WORDS.map(lambda words: tuple(sorted(words)))
DIGESTS = st.binary(max_size=4).map(digest_of)
# As a TOML file gives them: at most nine decimals of a second.
SECONDS = st.integers(10**9, 30 * 86_400 * 10**9).map(lambda nanos: nanos / 10**9)


def floats(least: float, greatest: float) -> st.SearchStrategy[float]:
    return st.floats(least, greatest)


BASE_MODELS = st.builds(
    BaseModelTerms,
    name=st.text(st.characters(codec="utf-8"), min_size=1, max_size=8).filter(
        lambda name: name.isprintable() and {"", ".", ".."}.isdisjoint(name.split("/"))
    ),
    weights_digest=DIGESTS,
    tokenizer_digest=DIGESTS,
    chat_template_digest=DIGESTS,
)
LORAS = st.builds(
    LoraTerms,
    least_lora_rank=st.just(0) | st.integers(0, 4),
    lora_rank=st.integers(1, 1024),
    lora_alpha=st.integers(1, 65_536),
    lora_dropout=floats(0, 0.9),
    target_modules=SORTED_WORDS,
)
TASKS = st.builds(
    TaskTerms,
    entity_types=SORTED_WORDS,
    prompt_form=st.sampled_from(PromptForm),
    max_new_tokens=st.integers(1, 8192),
    relation_types=NO_WORDS | SORTED_WORDS,
)
TRAININGS = st.builds(
    TrainingTerms,
    local_epochs=st.integers(1, 100),
    learning_rate=floats(1e-9, 1),
    lora_plus_ratio=floats(1, 100),
    schedule=st.sampled_from(Schedule),
    warmup_ratio=floats(0, 1),
    weight_decay=floats(0, 1),
    max_grad_norm=floats(1e-6, 1e6),
    batch_size=st.integers(1, 4096),
    tokens_per_batch=st.integers(16, 10_000_000),
    max_length=st.integers(16, 131_072),
    loss_on=st.sampled_from(LossOn),
    quantization=st.sampled_from(Quantization),
    gradient_checkpointing=st.booleans(),
    examples_per_round=st.integers(0, 10_000_000),
    seed=st.integers(0, 2**53),
    proximal_mu=floats(0, 1e6),
    max_empty_share=floats(0, 0.99),
)
ROUNDS = st.builds(
    RoundTerms,
    count=st.integers(1, 10_000),
    quorum=st.just(1),
    sites=st.lists(NAMES, max_size=4, unique=True).map(tuple),
    train_deadline=SECONDS,
    grace=st.just(0.0) | SECONDS,
    evaluate_deadline=SECONDS,
)


def parameters_of(strategy: str) -> st.SearchStrategy[Any]:
    """Parameters of that strategy, each within its bounds."""
    kind = STRATEGIES_WITH_PARAMETERS[strategy]
    return st.builds(kind, **{each.name: numbers_of(each) for each in dataclasses.fields(kind)})


def numbers_of(field: dataclasses.Field[Any]) -> st.SearchStrategy[Any]:
    least, most = field.metadata["least"], field.metadata["greatest"]
    return st.integers(int(least), int(most)) if field.type == "int" else floats(least, most)


PARAMETERS = {name: parameters_of(name) for name in STRATEGIES_WITH_PARAMETERS}


def _is_consistent(terms: Terms) -> bool:
    """Whether the numbers that depend on each other agree."""
    parameters = getattr(terms.aggregation, terms.aggregation.strategy, None)
    problems = strategy_terms.parameter_problems(parameters, terms.lora.lora_rank, terms.rounds.count)
    return not problems and terms.lora.least_lora_rank <= terms.lora.lora_rank


TERMS = st.builds(
    Terms,
    name=NAMES,
    base_model=BASE_MODELS,
    lora=LORAS,
    task=TASKS,
    training=TRAININGS,
    aggregation=st.builds(
        AggregationTerms,
        weight_by=st.sampled_from(WeightBy),
        wire_dtype=st.sampled_from(WireDtype),
        server_momentum=floats(0, 0.99),
    )
    | st.sampled_from(sorted(PARAMETERS)).flatmap(
        lambda name: st.builds(AggregationTerms, strategy=st.just(name), **{name: PARAMETERS[name]})
    ),
    admission=st.builds(
        AdmissionTerms, max_num_examples=st.integers(1, 2**53), max_num_label_tokens=st.integers(1, 2**53)
    ),
    rounds=ROUNDS,
    gate=st.builds(
        GateTerms,
        metric=st.sampled_from(GateMetric),
        min_improvement=floats(-1e6, 1e6),
        on_rejection=st.sampled_from(OnRejection),
        on_evaluator_absent=st.sampled_from(OnEvaluatorAbsent),
        test_digest=st.just("") | DIGESTS,
    ),
).filter(lambda terms: _is_consistent(terms))


@st.composite
def whole_terms(draw: st.DrawFn) -> Terms:
    """Terms whose gate compares what one of their tasks has."""
    terms: Terms = draw(TERMS)
    is_without_entities: bool = draw(st.booleans())
    if terms.task.relation_types and is_without_entities:
        terms = dataclasses.replace(terms, task=dataclasses.replace(terms.task, relations_only=True))
    if terms.gate.metric.task not in (None, *terms.task.tasks):
        terms = dataclasses.replace(terms, gate=dataclasses.replace(terms.gate, metric=GateMetric.LOSS))
    return terms


@st.composite
def specs(draw: st.DrawFn) -> AdapterSpec:
    rank = draw(st.integers(1, 64))
    tensors = []
    for module in draw(st.lists(NAMES, min_size=1, max_size=4, unique=True)):
        sizes = draw(st.tuples(st.integers(1, 2**20), st.integers(1, 2**20)))
        tensors.append(TensorSpec(name=f"{module}.lora_A.weight", shape=(rank, sizes[0])))
        tensors.append(TensorSpec(name=f"{module}.lora_B.weight", shape=(sizes[1], rank)))
    return check_spec(
        AdapterSpec(
            lora_rank=rank,
            lora_alpha=draw(st.integers(1, 2**16)),
            target_modules=draw(SORTED_WORDS),
            dtype=draw(st.sampled_from(WireDtype)),
            tensors=tuple(sorted(tensors)),
        )
    )


@given(whole_terms())
def test_terms_come_back_equal_with_an_equal_digest(terms: Terms) -> None:
    sent = terms_to_proto(check_terms(terms)).SerializeToString()
    received = terms_from_proto(types_pb2.Terms.FromString(sent))
    assert received == terms
    assert received.digest == terms.digest


@given(specs())
def test_a_specification_comes_back_equal_with_an_equal_digest(spec: AdapterSpec) -> None:
    sent = spec_to_proto(spec).SerializeToString()
    received = spec_from_proto(types_pb2.AdapterSpec.FromString(sent))
    assert received == spec
    assert received.digest == spec.digest


PAIRS = [
    *((kind, name) for name, kind in vars(terms_module).items() if dataclasses.is_dataclass(kind)),
    *((kind, name) for name, kind in vars(strategy_terms).items() if dataclasses.is_dataclass(kind)),
    (AdapterSpec, "AdapterSpec"),
    (TensorSpec, "TensorSpec"),
]


@pytest.mark.parametrize(("kind", "message"), PAIRS)
def test_value_and_message_have_the_same_fields(kind: Any, message: str) -> None:
    assert {field.name for field in dataclasses.fields(kind)} == set(
        getattr(types_pb2, message).DESCRIPTOR.fields_by_name
    )


def message() -> types_pb2.Terms:
    digest = digest_of(b"")
    base = BaseModelTerms(name="m", weights_digest=digest, tokenizer_digest=digest, chat_template_digest=digest)
    return terms_to_proto(Terms(name="run", base_model=base))


def refusal_of(terms: types_pb2.Terms) -> InputInvalidError:
    with pytest.raises(InputInvalidError) as caught:
        terms_from_proto(terms)
    return caught.value


def paths_of(part: Message, wanted: Callable[[Any], bool]) -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = []
    for field in part.DESCRIPTOR.fields:
        if wanted(field):
            found.append((field.name,))
        if field.message_type is not None:
            found += [(field.name, *path) for path in paths_of(getattr(part, field.name), wanted)]
    return found


def owner_of(terms: Message, path: tuple[str, ...]) -> Any:
    for name in path[:-1]:
        terms = getattr(terms, name)
    return terms


def is_required(field: Any) -> bool:
    return bool(field.has_presence) and field.containing_oneof is None


@pytest.mark.parametrize("path", paths_of(message(), is_required))
def test_a_missing_message_is_refused_by_its_path(path: tuple[str, ...]) -> None:
    terms = message()
    owner_of(terms, path).ClearField(path[-1])
    error = refusal_of(terms)
    assert error.reason is Reason.FIELD_MISSING
    assert error.message.startswith(".".join(("terms", *path)) + ":")


@pytest.mark.parametrize("number", [0, 77])
@pytest.mark.parametrize("path", paths_of(message(), lambda field: field.enum_type is not None))
def test_an_unspecified_or_unknown_enum_is_refused_by_its_path(path: tuple[str, ...], number: int) -> None:
    terms = message()
    setattr(owner_of(terms, path), path[-1], number)
    error = refusal_of(terms)
    assert error.reason is Reason.FIELD_INVALID
    assert error.message.startswith(".".join(("terms", *path)) + ":")


def test_parameters_are_the_named_strategys_and_no_other_ones() -> None:
    without, foreign = message(), message()
    without.aggregation.strategy = "fed_medlora_plus"
    foreign.aggregation.fed_medlora_plus.temperature = 1.0
    for terms, expected in ((without, "its parameters, got none"), (foreign, "nothing, for the strategy is")):
        error = refusal_of(terms)
        assert error.reason is Reason.TERMS_INVALID
        assert f"aggregation.fed_medlora_plus: expected {expected}" in error.message


def test_parameters_that_break_a_bound_are_refused() -> None:
    terms = message()
    terms.aggregation.strategy = "fed_medlora_plus"
    terms.aggregation.fed_medlora_plus.size_exponent = 1.0  # and no temperature: 0
    error = refusal_of(terms)
    assert error.message.startswith("aggregation.fed_medlora_plus.temperature: expected 0.001 to 1e+06, got 0")


def test_a_setting_of_a_later_version_is_refused() -> None:
    later = message()
    # Field 99, varint 1: what a version that knows more would send.
    later.training.MergeFromString(b"\x98\x06\x01")
    error = refusal_of(later)
    assert error.reason is Reason.FIELD_INVALID and error.message.startswith("terms.training:")


@pytest.mark.parametrize(("seconds", "nanos"), [(-1, 0), (0, -1), (0, 10**9), (2**62, 0)])
def test_a_duration_that_is_none_is_refused_by_its_path(seconds: int, nanos: int) -> None:
    terms = message()
    terms.rounds.grace.seconds, terms.rounds.grace.nanos = seconds, nanos
    error = refusal_of(terms)
    assert error.reason is Reason.FIELD_INVALID and error.message.startswith("terms.rounds.grace:")


def test_a_duration_whose_digest_would_change_on_the_way_is_not_sent() -> None:
    terms = terms_from_proto(message())
    uneven = dataclasses.replace(terms, rounds=dataclasses.replace(terms.rounds, grace=0.1 + 0.2))
    with pytest.raises(InputInvalidError, match=r"terms\.rounds\.grace"):
        terms_to_proto(uneven)


def test_terms_that_break_a_bound_are_refused() -> None:
    terms = message()
    terms.training.learning_rate = math.nan
    assert refusal_of(terms).reason is Reason.TERMS_INVALID


def test_a_specification_that_is_none_of_a_lora_adapter_is_refused() -> None:
    with pytest.raises(InputInvalidError) as caught:
        spec_from_proto(types_pb2.AdapterSpec(lora_rank=1, lora_alpha=1, dtype=types_pb2.WIRE_DTYPE_BF16))
    assert caught.value.reason is Reason.SPEC_INVALID

"""Fed-MedLoRA against a naive float64 oracle, from the files that were uploaded."""

from __future__ import annotations

import tracemalloc
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.adapter import AdapterSpec, WireDtype
from common.errors import Reason, UpdateRefusedError
from common.ids import SiteName
from common.terms import AggregationTerms, WeightBy
from common.weights_io import write_weights
from coordinator.app.aggregate_round import RoundFiles, aggregate
from coordinator.domain.aggregation.fed_medlora import FedMedLora
from coordinator.domain.aggregation.strategy import Contribution, Factors
from coordinator.domain.cohort import train_assignment_id
from coordinator.domain.values import AdapterFile, RosterEntry, Run, SiteOutcome
from tests.fakes.coordinator_updates import Weights, digest_bytes, random_weights, read_float64
from tests.fakes.coordinator_values import RUN_ID, make_spec, make_terms, make_update, selecting_run

BOTH_DTYPES = pytest.mark.parametrize("dtype", list(WireDtype))
# Significand bits, the hidden one included (IEEE 754-2019, table 3.5; bfloat16 as in common.bfloat16).
PRECISION = {WireDtype.BF16: 8, WireDtype.F32: 24}


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """What one site sends."""

    weights: Weights
    num_examples: int = 10
    num_label_tokens: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Combined:
    """A candidate beside the uploads it came from."""

    content: bytes
    uploads: list[bytes]
    weights: list[float]

    @property
    def tensors(self) -> dict[str, NDArray[np.float64]]:
        return read_float64(self.content)


def run_of(spec: AdapterSpec, weight_by: WeightBy = WeightBy.LABEL_TOKENS) -> Run:
    terms = make_terms(aggregation=AggregationTerms(weight_by=weight_by, wire_dtype=spec.dtype))
    return replace(selecting_run(terms), spec=spec)


def combine(folder: Path, run: Run, sites: list[Site]) -> Combined:
    """Write the sites' files and aggregate them, as a round would."""
    assert run.spec is not None
    start = folder / "global.safetensors"
    write_weights(start, random_weights(run.spec, seed=99), run.spec.dtype)
    paths = paths_of(folder, sites)
    for path, site in zip(paths, sites, strict=True):
        write_weights(path, site.weights, run.spec.dtype)
    out = folder / "candidate.safetensors"
    combined = aggregate(run, roster_of(sites), RoundFiles(updates=paths, current=start), out)
    content = out.read_bytes()
    assert combined.candidate == AdapterFile(digest=digest_bytes(content), size_bytes=len(content))
    return Combined(
        content=content,
        uploads=[path.read_bytes() for path in paths],
        weights=[weight for _, weight in combined.weights],
    )


def roster_of(sites: list[Site]) -> list[RosterEntry]:
    """Accepted entries named by number; what they say of their files is not read again."""
    names = [SiteName(str(number)) for number in range(len(sites))]
    return [
        RosterEntry(
            site=name,
            assignment_id=train_assignment_id(RUN_ID, 1, name),
            outcome=SiteOutcome.ACCEPTED,
            update=make_update(name, site.num_examples, site.num_label_tokens),
        )
        for name, site in zip(names, sites, strict=True)
    ]


def paths_of(folder: Path, sites: list[Site]) -> list[Path]:
    return [folder / f"{number}.safetensors" for number in range(len(sites))]


def oracle(uploads: list[bytes], counts: list[int]) -> dict[str, NDArray[np.float64]]:
    """sum_k n_k X_k / sum n, number by number, in float64 alone (arXiv 2305.05644, section 3)."""
    files = [read_float64(upload) for upload in uploads]
    total = sum(counts)
    mean = {}
    for name in files[0]:
        mean[name] = np.zeros_like(files[0][name])
        for file, count in zip(files, counts, strict=True):
            mean[name] += file[name] * (count / total)
    return mean


def assert_rounded(
    got: dict[str, NDArray[np.float64]], exact: dict[str, NDArray[np.float64]], dtype: WireDtype
) -> None:
    """Every number of ``got`` is the exact one rounded once: at most half a unit in the last place away."""
    assert got.keys() == exact.keys()
    for name, values in exact.items():
        _, exponent = np.frexp(np.abs(values))
        half_unit = np.ldexp(0.5, exponent - PRECISION[dtype])
        # 1e-12: the oracle's own float64 rounding; half a unit of a number that rounds up a binade is as large.
        assert (np.abs(got[name] - values) <= half_unit * (1 + 1e-12)).all(), name


@BOTH_DTYPES
@pytest.mark.parametrize(
    ("weight_by", "counts"),
    [
        (WeightBy.LABEL_TOKENS, [700, 200, 90]),
        (WeightBy.EXAMPLES, [3, 50, 11]),
        (WeightBy.UNIFORM, [1, 1, 1]),
    ],
)
def test_a_candidate_is_the_oracles_mean_rounded_once(
    tmp_path: Path, dtype: WireDtype, weight_by: WeightBy, counts: list[int]
) -> None:
    spec = make_spec(modules=3, width=33, dtype=dtype)
    tokens, examples = [700, 200, 90], [3, 50, 11]
    sites = [
        Site(weights=random_weights(spec, seed), num_examples=examples[seed], num_label_tokens=tokens[seed])
        for seed in range(3)
    ]
    combined = combine(tmp_path, run_of(spec, weight_by), sites)
    assert_rounded(combined.tensors, oracle(combined.uploads, counts), dtype)
    assert combined.weights == [count / sum(counts) for count in counts]


@BOTH_DTYPES
def test_numbers_of_very_different_size_are_still_rounded_once(tmp_path: Path, dtype: WireDtype) -> None:
    spec = make_spec(modules=1, width=64, dtype=dtype)
    sites = [Site(weights=random_weights(spec, seed, scale=10.0 ** (4 * seed - 6))) for seed in range(4)]
    combined = combine(tmp_path, run_of(spec), sites)
    assert_rounded(combined.tensors, oracle(combined.uploads, [1] * 4), dtype)


@BOTH_DTYPES
def test_equal_updates_give_themselves(tmp_path: Path, dtype: WireDtype) -> None:
    spec = make_spec(dtype=dtype)
    weights = random_weights(spec, seed=1)
    sites = [Site(weights=weights, num_label_tokens=count) for count in (1, 3, 70, 1_000_003)]
    combined = combine(tmp_path, run_of(spec), sites)
    (upload, *_) = combined.uploads
    assert combined.content == upload


def test_one_update_alone_gives_itself(tmp_path: Path) -> None:
    spec = make_spec()
    combined = combine(tmp_path, run_of(spec), [Site(weights=random_weights(spec, seed=1))])
    assert combined.uploads == [combined.content]


def test_sites_with_equal_counts_all_count(tmp_path: Path) -> None:
    spec = make_spec(dtype=WireDtype.F32)
    sites = [Site(weights={t.name: np.full(t.shape, value, np.float32) for t in spec.tensors}) for value in (1, 2, 6)]
    combined = combine(tmp_path, run_of(spec), sites)
    assert combined.weights == [1 / 3] * 3
    assert all((values == 3.0).all() for values in combined.tensors.values())


def test_the_global_adapters_own_factors_do_not_enter(tmp_path: Path) -> None:
    spec = make_spec(dtype=WireDtype.F32)
    zeros = {t.name: np.zeros(t.shape, np.float32) for t in spec.tensors}
    combined = combine(tmp_path, run_of(spec), [Site(weights=zeros), Site(weights=zeros)])
    assert not any(values.any() for values in combined.tensors.values())


def test_a_site_a_million_times_larger_outweighs_but_does_not_erase_the_other(tmp_path: Path) -> None:
    spec = make_spec(dtype=WireDtype.F32)
    sites = [
        Site(weights=random_weights(spec, 0), num_label_tokens=10**9),
        Site(weights=random_weights(spec, 1, scale=1000.0), num_label_tokens=10**3),
    ]
    combined = combine(tmp_path, run_of(spec), sites)
    assert_rounded(combined.tensors, oracle(combined.uploads, [10**9, 10**3]), WireDtype.F32)
    assert combined.content != combined.uploads[0]


def test_alpha_and_its_scale_do_not_enter_the_mean(tmp_path: Path) -> None:
    spec = make_spec()
    sites = [Site(weights=random_weights(spec, seed)) for seed in range(2)]
    as_is = combine(tmp_path, run_of(spec), sites)
    scaled = combine(tmp_path, run_of(replace(spec, lora_alpha=1000)), sites)
    assert as_is.content == scaled.content


def test_the_factors_are_averaged_and_not_their_products(tmp_path: Path) -> None:
    spec = make_spec(modules=1, dtype=WireDtype.F32)
    sites = [Site(weights=random_weights(spec, seed, scale=1.0)) for seed in range(2)]
    combined = combine(tmp_path, run_of(spec), sites)
    a, b = spec.names
    products = [file[b] @ file[a] for file in map(read_float64, combined.uploads)]
    got = combined.tensors[b] @ combined.tensors[a]
    assert not np.allclose(got, sum(products) / 2)


def test_a_file_that_changed_after_its_admission_gives_no_candidate(tmp_path: Path) -> None:
    spec = make_spec(modules=3)
    sites = [Site(weights=random_weights(spec, seed)) for seed in range(2)]
    run = run_of(spec)
    combined = combine(tmp_path, run, sites)
    (tmp_path / "1.safetensors").write_bytes(combined.uploads[1][:-3])
    out = tmp_path / "again.safetensors"
    with pytest.raises(UpdateRefusedError) as refused:
        files = RoundFiles(updates=paths_of(tmp_path, sites), current=tmp_path / "global.safetensors")
        aggregate(run, roster_of(sites), files, out)
    assert refused.value.reason is Reason.UPDATE_TRUNCATED
    assert not out.exists()


def test_aggregating_holds_a_module_at_a_time(tmp_path: Path) -> None:
    spec = make_spec(modules=200, width=2048, dtype=WireDtype.F32)
    sites = [Site(weights=random_weights(spec, seed)) for seed in range(4)]
    run, start, out = run_of(spec), tmp_path / "global.safetensors", tmp_path / "again.safetensors"
    combine(tmp_path, run, sites)
    tracemalloc.start()
    try:
        aggregate(run, roster_of(sites), RoundFiles(updates=paths_of(tmp_path, sites), current=start), out)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    module_bytes = spec.data_bytes / 200
    headers_bytes = 5 * 400 * 1000  # five open files, 400 tensors each, well under a kilobyte of bookkeeping a tensor
    # 4 updates and the global adapter in float32, their mean and one product in float64: 9 times a module's float32.
    assert peak_bytes < 12 * module_bytes + headers_bytes < spec.data_bytes


# The weights alone


COUNTS = st.lists(st.integers(1, 10**10), min_size=1, max_size=12)


def weigh(counts: list[int], weight_by: WeightBy) -> tuple[float, ...]:
    contributions = [Contribution(num_examples=count, num_label_tokens=count) for count in counts]
    terms = make_terms(aggregation=AggregationTerms(weight_by=weight_by))
    return FedMedLora(terms).weigh(contributions, None)


@given(counts=COUNTS, weight_by=st.sampled_from(WeightBy))
def test_weights_sum_to_one(counts: list[int], weight_by: WeightBy) -> None:
    weights = weigh(counts, weight_by)
    assert len(weights) == len(counts)
    assert all(weight > 0 for weight in weights)
    assert abs(sum(weights) - 1) < 1e-14 * len(weights)


@given(counts=COUNTS)
def test_weights_are_the_counts_shares_correctly_rounded(counts: list[int]) -> None:
    total = sum(counts)
    assert weigh(counts, WeightBy.LABEL_TOKENS) == tuple(float(Fraction(count, total)) for count in counts)


@given(counts=COUNTS)
def test_uniform_weights_ignore_the_counts(counts: list[int]) -> None:
    assert set(weigh(counts, WeightBy.UNIFORM)) == {1 / len(counts)}


@given(
    values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=6),
    counts=st.lists(st.integers(1, 10**6), min_size=6, max_size=6),
)
def test_a_mean_lies_between_its_least_and_greatest_part(values: list[float], counts: list[int]) -> None:
    weights = weigh(counts[: len(values)], WeightBy.EXAMPLES)
    updates = [Factors(a=np.full((2, 3), v, np.float32), b=np.full((3, 2), v, np.float32)) for v in values]
    mean = FedMedLora(make_terms()).combine(updates, weights, updates[0])
    for factor in (mean.a, mean.b):
        slack = 1e-9
        assert (factor >= min(values) - slack).all() and (factor <= max(values) + slack).all()

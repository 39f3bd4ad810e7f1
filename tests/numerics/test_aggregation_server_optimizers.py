"""Server optimisers: each step against plain float64 loops, and their state over real rounds, restarts and a revert."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from common.bfloat16 import decode_bf16, encode_bf16
from common.ids import SiteName
from common.strategy_terms import FedAdagradTerms, FedAdamTerms, FedAvgMTerms, FedYogiTerms
from common.terms import AggregationTerms, GateMetric, GateTerms, OnRejection, Terms
from common.weights_io import file_digest
from coordinator.app.poll import live_assignment
from coordinator.domain.aggregation.strategy import StatefulStrategy
from coordinator.domain.assignments import Assignment
from coordinator.domain.cohort import state_id
from coordinator.domain.kept_state import needed_states
from coordinator.domain.values import AdapterFile, Phase
from tests.fakes.coordinator_rounds import update_scores
from tests.fakes.coordinator_strategies import aggregation_of, strategy_named
from tests.fakes.coordinator_updates import read_float64
from tests.fakes.coordinator_values import SITES, make_round_terms, make_terms
from tests.fakes.coordinator_world import World, coordinator, evaluator

ROUNDS = 3
NAMES = ("fedadagrad", "fedadam", "fedavgm", "fedyogi")
Tensors = dict[str, NDArray[np.float64]]
NUMBERS = st.lists(st.floats(-1e3, 1e3, width=32), min_size=3, max_size=3)


def oracle(parameters: object, x: float, aggregate: float, kept: list[float] | None) -> tuple[float, list[float]]:
    """Algorithm 2 of arXiv 2003.00295 (and FedAvgM of 1909.06335), one number at a time."""
    move = aggregate - x
    if isinstance(parameters, FedAvgMTerms):
        momentum = parameters.momentum * (kept[0] if kept else 0.0) + move
        return x + parameters.learning_rate * momentum, [momentum]
    assert isinstance(parameters, FedAdagradTerms | FedAdamTerms | FedYogiTerms)
    m, v = kept or [0.0, parameters.tau**2]
    m = parameters.beta1 * m + (1 - parameters.beta1) * move
    if isinstance(parameters, FedAdagradTerms):
        v += move * move
    elif isinstance(parameters, FedAdamTerms):
        v = parameters.beta2 * v + (1 - parameters.beta2) * move * move
    elif v > move * move:
        v -= (1 - parameters.beta2) * move * move
    elif v < move * move:
        v += (1 - parameters.beta2) * move * move
    return x + parameters.learning_rate * m / (v**0.5 + parameters.tau), [m, v]


def stateful(name: str, parameters: object | None = None) -> StatefulStrategy:
    return cast("StatefulStrategy", strategy_named(name, parameters))


def parameters_of(name: str) -> object:
    return getattr(aggregation_of(name), name)


@pytest.mark.parametrize("name", NAMES)
@given(start=NUMBERS, aggregates=st.lists(NUMBERS, min_size=1, max_size=4))
def test_every_step_is_that_of_the_paper(name: str, start: list[float], aggregates: list[list[float]]) -> None:
    strategy = stateful(name)
    x, kept = np.array(start, np.float64), None
    wanted: list[tuple[float, list[float] | None]] = [(each, None) for each in start]
    for aggregate in aggregates:
        x, kept = strategy.advance(np.array(aggregate), x, kept)  # type: ignore[assignment]
        wanted = [
            oracle(parameters_of(name), *each[:1], to, each[1]) for each, to in zip(wanted, aggregate, strict=True)
        ]
    np.testing.assert_allclose(x, [each for each, _ in wanted], rtol=1e-9, atol=1e-9)
    assert kept is not None and len(kept) == len(strategy.moments)
    for index, moment in enumerate(kept):
        expected = [values[index] for _, values in wanted if values is not None]
        np.testing.assert_allclose(moment, expected, rtol=1e-9, atol=1e-9)


@given(start=NUMBERS, aggregate=NUMBERS)
def test_fedavgm_without_momentum_is_the_mean(start: list[float], aggregate: list[float]) -> None:
    strategy = stateful("fedavgm", FedAvgMTerms(momentum=0.0))
    moved, _ = strategy.advance(np.array(aggregate), np.array(start), [np.full(3, 7.0)])
    np.testing.assert_allclose(moved, aggregate, rtol=1e-12, atol=1e-9)


@given(move=st.floats(1e-9, 1e-5))
def test_with_the_defaults_a_small_first_move_is_made_as_it_is(move: float) -> None:
    """Far below tau the root is tau for both factors of the quotient: 0.01 * 0.1 D / (2 tau) is half of D."""
    for name in ("fedadam", "fedyogi"):
        moved, _ = stateful(name).advance(np.array([move]), np.zeros(1), None)
        assert moved[0] == pytest.approx(0.5 * move, rel=0.02)


# Over rounds


def terms_of(name: str, on_rejection: OnRejection | None = None) -> Terms:
    gate = GateTerms(metric=GateMetric.NONE)
    if on_rejection is not None:
        gate = GateTerms(metric=GateMetric.LOSS, on_rejection=on_rejection)
    return make_terms(rounds=make_round_terms(count=ROUNDS), gate=gate, aggregation=aggregation_of(name))


async def play_round(world: World, number: int) -> Tensors:
    """Let every site answer, and the round be aggregated; returns the weighted mean of what was sent."""
    uploads = []
    await world.invite()
    for order, site in enumerate(SITES):
        content = world.honest_bytes(10 * number + order)
        await world.send(SiteName(site), content, 100 * (order + 1))
        uploads.append((100 * (order + 1) / 600, read_float64(content)))
    await world.perform_pending()
    return {name: sum((share * each[name] for share, each in uploads), np.zeros(1)) for name in uploads[0][1]}


def tensors_of(world: World, file: AdapterFile | None) -> Tensors:
    assert file is not None
    return read_float64(world.blobs.adapter_path(file.digest).read_bytes())


@pytest.mark.parametrize("name", NAMES)
async def test_each_candidate_is_a_step_from_the_last_with_what_was_kept(tmp_path: Path, name: str) -> None:
    strategy = stateful(name)
    async with coordinator(tmp_path) as world:
        await world.begin(terms_of(name))
        before = tensors_of(world, world.run.first_adapter)
        kept: dict[str, list[NDArray[np.float32]]] = {}
        for number in range(1, ROUNDS + 1):
            mean = await play_round(world, number)
            candidate = tensors_of(world, world.run.rounds[number - 1].candidate)
            for tensor, aggregate in mean.items():
                wanted, moments = strategy.advance(aggregate, before[tensor], kept.get(tensor))
                kept[tensor] = [np.asarray(moment, np.float32) for moment in moments]
                np.testing.assert_allclose(candidate[tensor], decode_bf16(encode_bf16(wanted)), rtol=1e-2, atol=1e-7)
            before = candidate


@pytest.mark.parametrize("name", NAMES)
async def test_a_coordinator_that_starts_again_gives_the_same_candidates(tmp_path: Path, name: str) -> None:
    candidates = []
    for lives, root in ((1, tmp_path / "one"), (ROUNDS, tmp_path / "many")):
        for life in range(lives):
            async with coordinator(root) as world:
                if life == 0:
                    await world.begin(terms_of(name))
                for number in range(ROUNDS * life // lives + 1, ROUNDS * (life + 1) // lives + 1):
                    await play_round(world, number)
                closed = [(past.candidate, past.state) for past in world.run.rounds]
        candidates.append(closed)
    assert candidates[0] == candidates[1]
    assert len(set(candidates[0])) == ROUNDS


async def test_a_state_stays_until_the_round_that_starts_from_it_has_ended(tmp_path: Path) -> None:
    async with coordinator(tmp_path) as world:
        await world.begin(terms_of("fedadam"))
        for number in range(1, ROUNDS + 1):
            await play_round(world, number)
            wanted = [state_id(world.run.run_id, number)] if number < ROUNDS else []
            assert list(needed_states(world.run)) == wanted
            assert world.update_files() == [f"{each}.safetensors" for each in wanted]


async def test_a_round_that_goes_back_goes_on_with_the_state_of_what_it_starts_from(tmp_path: Path) -> None:
    """Round 2 is rejected: round 3 starts from round 1's candidate, with round 1's moments, and so repeats round 2."""
    async with coordinator(tmp_path) as world:
        await world.begin(terms_of("fedavgm", OnRejection.REVERT))
        for number, loss in ((1, 1.0), (2, 2.0), (3, 0.5)):
            await play_round(world, min(number, 2))
            given = live_assignment(world.driver.runs, evaluator())
            assert isinstance(given, Assignment)
            await world.answers.take_scores(evaluator(), given.assignment_id, update_scores(loss))
            await world.perform_pending()
        first, second, third = world.run.rounds
    assert second.phase is Phase.REJECTED and third.global_adapter == first.candidate
    assert third.state == second.state
    assert third.candidate == second.candidate


async def test_what_a_kill_between_writing_and_committing_leaves_is_written_again_the_same(tmp_path: Path) -> None:
    """State and candidate lie there, the run does not know of them: the next life sweeps them and aggregates again."""
    async with coordinator(tmp_path) as world:
        await world.begin(terms_of("fedadam"))
        await play_round(world, 1)
        await world.invite()
        for number, site in enumerate(SITES):
            await world.send(SiteName(site), world.honest_bytes(20 + number), 100)
        command = (await world.store.pending_commands())[0]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(world.driver), "post", _die)
            with pytest.raises(KeyboardInterrupt):
                await world.performer.perform(command)
        left = world.update_files()
    async with coordinator(tmp_path) as world:
        assert set(world.update_files()) < set(left)
        await world.perform_pending()
        second = world.run.rounds[1]
        assert second.phase is Phase.COMMITTED and second.state is not None
        assert f"{state_id(world.run.run_id, 2)}.safetensors" in left
        path = world.blobs.update_path(state_id(world.run.run_id, 2))
        assert file_digest(path) == second.state.digest


async def _die(*_given: object) -> None:
    raise KeyboardInterrupt


def test_what_is_kept_is_named_in_the_terms_by_their_strategy() -> None:
    terms = AggregationTerms(strategy="fedadam", fedadam=FedAdamTerms())
    assert terms.fedadam == FedAdamTerms(learning_rate=0.01, beta1=0.9, beta2=0.99, tau=1e-3)

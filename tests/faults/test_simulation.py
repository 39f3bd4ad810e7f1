"""Federations on a simulated network, disk and clock: whatever befalls them, they end as undisturbed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common import files
from coordinator.adapters.storage import blob_folder
from coordinator.app import recovery
from site_agent.adapters import journal
from site_agent.adapters.personal_folder import PersonalFolder
from tests.faults.long_form import IS_LONG
from tests.simulation.expected import Rule, terms_of
from tests.simulation.federation import COORDINATOR, NAMES, Federation, Outcome, simulate, terms_of_seed
from tests.simulation.machines import Death
from tests.simulation.plan import OneDeath

RUNS = 300 if IS_LONG else 6
# So many places to die are drawn for each machine and each way to die; the long form takes every one.
DRAWN = 2
# A run draws some forty crashes: a fault that none of these finds would not be found.
SEEDS_TO_NOTICE = 30


def with_one_death(name: str | None = None, place: int = 0, death: Death = Death.KILL) -> Outcome:
    return Federation(OneDeath(name, place, death), terms_of(quorum=2), seed=0).play()


@pytest.fixture(scope="module")
def unharmed() -> Outcome:
    return with_one_death()


def test_a_federation_that_nothing_befalls_comes_to_its_end(unharmed: Outcome) -> None:
    assert unharmed.problems == ()
    assert unharmed.crashes == 0
    assert all(unharmed.places[name] > 100 for name in NAMES)


@pytest.mark.parametrize("seed", range(RUNS))
def test_a_federation_that_everything_befalls_ends_as_undisturbed(seed: int) -> None:
    assert simulate(seed).problems == ()


@pytest.mark.parametrize("death", Death)
@pytest.mark.parametrize("name", NAMES)
def test_a_machine_that_dies_once_anywhere_ends_as_if_it_had_not(name: str, death: Death, unharmed: Outcome) -> None:
    places = range(1, unharmed.places_before_the_end(name) + 1)
    for place in places if IS_LONG else random.Random(name).sample(places, DRAWN):
        outcome = with_one_death(name, place, death)
        assert outcome.crashes == 1, f"place {place} was never reached"
        assert outcome.problems == (), f"{name} {death} at place {place}"


@pytest.mark.parametrize("rule", Rule)
def test_every_rule_comes_to_its_end_and_what_is_kept_for_it_is_looked_at(rule: Rule) -> None:
    federation = Federation(OneDeath(), terms_of(2, rule), seed=0)
    assert federation.play().problems == ()
    assert federation.kept.states.keys() == ({1, 2} if rule is Rule.STATE else set())
    assert federation.kept.parts.keys() == ({1, 2} if rule in (Rule.RANKS, Rule.BESIDE) else set())
    assert bool(federation.kept.looks) is (rule in (Rule.STATE, Rule.RANKS, Rule.BESIDE))


def dies_late(rule: Rule, share: float) -> Outcome:
    """The coordinator loses its power when so much of the run is over, in the second round."""
    places = Federation(OneDeath(), terms_of(2, rule), seed=0).play().places_before_the_end(COORDINATOR)
    return Federation(OneDeath(COORDINATOR, int(share * places), Death.POWER), terms_of(2, rule), seed=0).play()


@pytest.mark.parametrize("rule", Rule)
def test_a_coordinator_that_dies_in_the_second_round_goes_on_with_what_was_kept_for_it(rule: Rule) -> None:
    outcome = dies_late(rule, 0.7)
    assert (outcome.crashes, outcome.problems) == (1, ())


def test_a_state_that_is_swept_by_mistake_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "needed_states", lambda _run: {})

    assert dies_late(Rule.STATE, 0.7).problems


def test_factors_that_a_site_does_not_keep_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PersonalFolder, "keep", nothing)

    assert Federation(OneDeath(), terms_of(2, Rule.OWN), seed=0).play().problems


def test_the_seeds_play_every_rule() -> None:
    assert {terms_of_seed(seed).aggregation.strategy for seed in range(RUNS)} == set(Rule)


def test_a_seed_plays_the_same_again() -> None:
    first, second = simulate(3), simulate(3)

    assert first.crashes > 0
    assert first.trace == second.trace


def test_a_seed_plays_the_same_in_another_process_whose_strings_hash_otherwise() -> None:
    root = Path(__file__).parents[2]
    program = (
        "from common.tls import harden_tls; harden_tls(); from tests.simulation.federation import simulate;"
        "print(simulate(3).digest)"
    )
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'proto'}", "PYTHONHASHSEED": "12345"}
    other = subprocess.run([sys.executable, "-c", program], cwd=root, env=environment, capture_output=True, text=True)

    assert other.stdout.strip() == simulate(3).digest, other.stderr


def nothing(*_arguments: Any) -> None:
    """Sync nothing."""


def made_only(folder: Path, mode: int) -> None:
    folder.mkdir(mode, parents=True, exist_ok=True)


@pytest.mark.parametrize(
    ("module", "name", "instead"),
    [
        (blob_folder, "sync_folder", nothing),
        (blob_folder, "make_folder", made_only),
        (files, "sync_folder", nothing),
        (journal, "_lighten", nothing),
    ],
    ids=lambda value: value if isinstance(value, str) else getattr(value, "__name__", ""),
)
def test_what_is_left_out_is_noticed(
    module: object, name: str, instead: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, instead)

    assert any(simulate(seed).problems for seed in range(SEEDS_TO_NOTICE))

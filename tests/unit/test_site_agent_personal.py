"""Factors that stay at the site: kept by round, laid out for the next one, through crashes, into a folder for peft."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.adapter import B_SUFFIX, FactorSet, WireDtype
from common.errors import InputInvalidError
from common.terms import Terms
from common.weights_io import WeightsReader, file_digest, write_weights
from site_agent.adapters.personal_folder import PersonalFolder
from site_agent.app.personal_adapter import put_own
from site_agent.domain.assignment import TrainWork
from site_agent.orders import OWN_FILE, PERSONAL_FILE
from tests.fakes.coordinator_updates import random_weights
from tests.fakes.site_values import make_spec, make_terms, train_assignment, with_work

TERMS = make_terms()


def made(folder: Path, content: str) -> Path:
    path = folder / PERSONAL_FILE
    path.write_text(content)
    return path


def laid_out(personal: PersonalFolder, folder: Path, round_number: int, terms: Terms = TERMS) -> str | None:
    target = folder / OWN_FILE
    personal.lay_out(terms, round_number, target)
    return target.read_text() if target.exists() else None


def test_a_round_starts_from_what_the_one_before_left_whatever_it_left_itself(tmp_path: Path) -> None:
    """A trainer that is started again after its result was kept starts from what it started from."""
    personal = PersonalFolder(tmp_path)
    assert laid_out(personal, tmp_path, 1) is None
    for number in (1, 2, 3):
        personal.keep(TERMS, number, made(tmp_path, f"round {number}"))
        before = f"round {number - 1}" if number > 1 else None
        assert laid_out(personal, tmp_path, number) == before
        personal.keep(TERMS, number, made(tmp_path, f"round {number}"))
    assert laid_out(PersonalFolder(tmp_path), tmp_path, 4) == "round 3"


def test_a_site_that_missed_rounds_goes_on_from_its_last(tmp_path: Path) -> None:
    personal = PersonalFolder(tmp_path)
    personal.keep(TERMS, 2, made(tmp_path, "round 2"))
    assert laid_out(personal, tmp_path, 9) == "round 2"
    assert laid_out(personal, tmp_path, 2) is None


def test_the_last_two_rounds_stay(tmp_path: Path) -> None:
    personal = PersonalFolder(tmp_path)
    for number in range(1, 6):
        personal.keep(TERMS, number, made(tmp_path, str(number)))
    (folder,) = (tmp_path / "personal").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["00004.safetensors", "00005.safetensors"]


def test_other_terms_of_the_same_name_have_factors_of_their_own(tmp_path: Path) -> None:
    personal = PersonalFolder(tmp_path)
    other = replace(TERMS, rounds=replace(TERMS.rounds, count=99))
    personal.keep(TERMS, 1, made(tmp_path, "these"))
    assert laid_out(personal, tmp_path, 2, other) is None
    personal.keep(other, 1, made(tmp_path, "others"))
    with pytest.raises(InputInvalidError, match="expected personal factors of one run, got"):
        personal.latest(TERMS.name)


def test_a_head_start_is_what_the_site_kept_last_of_an_earlier_run(tmp_path: Path) -> None:
    earlier = replace(TERMS, name="earlier")
    PersonalFolder(tmp_path).keep(earlier, 7, made(tmp_path, "earlier"))
    personal = PersonalFolder(tmp_path, head_start="earlier")
    assert laid_out(personal, tmp_path, 1) == "earlier"
    personal.keep(TERMS, 1, made(tmp_path, "round 1"))
    assert laid_out(personal, tmp_path, 2) == "round 1"
    assert laid_out(personal, tmp_path, 1) == "earlier"
    with pytest.raises(InputInvalidError, match="run absent: expected personal factors of one run, got none"):
        laid_out(PersonalFolder(tmp_path, head_start="absent"), tmp_path, 1)


def test_what_a_round_does_not_start_from_does_not_lie_there(tmp_path: Path) -> None:
    """An earlier life may have laid out what a site has lost since."""
    (tmp_path / OWN_FILE).write_text("stale")
    assert laid_out(PersonalFolder(tmp_path), tmp_path, 1) is None


def test_own_factors_take_the_place_of_the_shared_ones_and_all_others_stay(tmp_path: Path) -> None:
    spec = make_spec()
    shared, own = random_weights(spec, 1), random_weights(spec, 2)
    weights, kept = tmp_path / "weights", tmp_path / "own"
    write_weights(weights, shared, spec.dtype)
    write_weights(kept, {name: values for name, values in own.items() if name.endswith(B_SUFFIX)}, WireDtype.F32)
    digest = put_own(weights, kept, spec)
    assert digest == file_digest(weights)
    with WeightsReader(weights) as reader:
        for name in spec.names:
            expected = (own if name.endswith(B_SUFFIX) else shared)[name]
            np.testing.assert_allclose(reader.tensor(name), expected, rtol=2**-8)


def test_own_factors_of_another_shape_are_refused_and_the_adapter_stays(tmp_path: Path) -> None:
    spec = make_spec()
    weights, kept = tmp_path / "weights", tmp_path / "own"
    write_weights(weights, random_weights(spec, 1), spec.dtype)
    write_weights(kept, random_weights(spec.at_rank(9), 2), WireDtype.F32)
    before = file_digest(weights)
    with pytest.raises(InputInvalidError, match="own factors: expected those of the adapter, 4 differ"):
        put_own(weights, kept, spec)
    assert file_digest(weights) == before


def test_own_factors_are_no_part_of_what_travels() -> None:
    work = with_work(train_assignment(), uploaded=FactorSet.A_ONLY, own=FactorSet.B_ONLY).work
    assert isinstance(work, TrainWork)
    assert not any(tensor.name.endswith(B_SUFFIX) for tensor in work.update_spec.tensors)

"""The mean of encoders against an oracle in exact fractions; what it refuses; what is found again."""

from __future__ import annotations

from fractions import Fraction
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from common.errors import FedMedError
from common.weights_io import file_digest
from coordinator.domain.values import AdapterFile
from lab.cells import Adapter
from lab.encoder.averaging import Means, Share, weighted_mean

Tensors = dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]


def some(seed: int) -> Tensors:
    random = np.random.default_rng(seed)
    shapes = {"layer.weight": (5, 3), "layer.bias": (5,)}
    return {name: random.normal(size=shape).astype(np.float32) * 10 ** (seed - 1) for name, shape in shapes.items()}


def kept(path: Path, tensors: Tensors) -> Path:
    save_file(tensors, path)
    return path


def share(path: Path, examples: int) -> Share:
    file = AdapterFile(digest=file_digest(path), size_bytes=path.stat().st_size)
    return Share(parameters=Adapter(file=file, path=path), examples=examples)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [kept(tmp_path / f"{seed}.safetensors", some(seed)) for seed in range(3)]


def test_every_number_is_the_mean_by_examples_to_half_a_unit_in_the_last_place(files: list[Path]) -> None:
    examples = [100, 7, 61]

    mean = weighted_mean(list(zip(files, examples, strict=True)))

    for name, values in mean.items():
        sources = [some(seed)[name] for seed in range(3)]
        for place in np.ndindex(values.shape):
            exact = sum((Fraction(float(one[place])) * n for one, n in zip(sources, examples, strict=True)), Fraction())
            assert values[place] == pytest.approx(float(exact / sum(examples)), rel=2**-24, abs=1e-12)
        assert values.dtype == np.float32


def test_equal_encoders_give_themselves(files: list[Path]) -> None:
    mean = weighted_mean([(files[1], 3), (files[1], 5)])

    assert all(np.array_equal(mean[name], values) for name, values in some(1).items())


def test_the_order_of_sites_is_irrelevant_and_nothing_is_made_twice(files: list[Path], tmp_path: Path) -> None:
    means = Means(folder=tmp_path / "means")
    shares = [share(path, examples) for path, examples in zip(files, (9, 2, 5), strict=True)]

    made = {means.mean(list(each)).file.digest for each in permutations(shares)}

    assert len(made) == 1
    assert len(list((tmp_path / "means").iterdir())) == 1


def test_a_mean_that_was_cut_off_is_made_again(files: list[Path], tmp_path: Path) -> None:
    means, shares = Means(folder=tmp_path / "means"), [share(files[0], 1), share(files[1], 1)]
    made = means.mean(shares)
    content = made.path.read_bytes()
    made.path.rename(made.path.with_name(f".{made.path.name}.0.partial"))

    assert means.mean(shares).path.read_bytes() == content


def test_one_site_has_its_own_parameters(files: list[Path], tmp_path: Path) -> None:
    alone = share(files[0], 4)

    assert Means(folder=tmp_path / "means").mean([alone]) == alone.parameters


@pytest.mark.parametrize(
    ("other", "problem"),
    [
        ({"layer.weight": np.zeros((5, 3), np.float32)}, "equal names"),
        ({**some(1), "layer.bias": np.zeros(4, np.float32)}, r"layer.bias: expected float32 \(5,\)"),
        ({**some(1), "layer.bias": np.zeros(5, np.float16)}, "got float16"),
    ],
)
def test_what_is_of_another_encoder_is_refused(files: list[Path], tmp_path: Path, other: Tensors, problem: str) -> None:
    path = kept(tmp_path / "other.safetensors", other)

    with pytest.raises(FedMedError, match=problem):
        weighted_mean([(files[0], 1), (path, 1)])


def test_the_file_of_a_mean_is_what_was_computed(files: list[Path], tmp_path: Path) -> None:
    made = Means(folder=tmp_path / "means").mean([share(files[0], 1), share(files[1], 3)])

    assert set(load_file(made.path)) == set(some(0))

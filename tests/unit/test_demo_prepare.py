"""Preparing a demo: it empties folders that a demo made, and no others."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from common.errors import InputInvalidError
from common.terms_file import load_terms_toml
from coordinator.domain.aggregation import STRATEGIES
from demo.federation import loopback
from demo.options import DemoOptions
from demo.prepare import Prepared, prepare, write_terms
from tests.fakes.coordinator_strategies import aggregation_of
from tests.fakes.coordinator_values import make_terms
from tests.fakes.demo_values import make_options
from tests.tiny_model import make_tiny_model


@pytest.fixture(scope="module")
def base_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def prepare_here(options: DemoOptions) -> Prepared:
    return prepare(options, loopback(options.sites + 1))


@pytest.mark.parametrize("kind", ["file", "link"])
def test_a_folder_with_anything_that_no_demo_made_is_refused_and_left_alone(
    tmp_path: Path, base_model: Path, kind: str
) -> None:
    mine = tmp_path / "thesis" / "chapter.txt"
    mine.parent.mkdir()
    mine.symlink_to(base_model) if kind == "link" else mine.write_text("years of work")

    with pytest.raises(RuntimeError, match="holds files that no demo made"):
        prepare_here(make_options(tmp_path, base_model))

    assert [path for path in tmp_path.rglob("*") if path != mine.parent] == [mine]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path, base_model: Path) -> None:
    out = tmp_path / "out"
    out.touch()

    with pytest.raises(RuntimeError, match="expected a folder"):
        prepare_here(make_options(out, base_model))


def test_a_demo_that_cannot_begin_leaves_the_last_one_whole(tmp_path: Path, base_model: Path) -> None:
    options = make_options(tmp_path, base_model)
    prepare_here(options)
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(InputInvalidError):
        prepare_here(make_options(tmp_path, tmp_path / "no-model-here"))

    assert sorted(tmp_path.rglob("*")) == before


def test_the_next_demo_starts_from_an_empty_folder(tmp_path: Path, base_model: Path) -> None:
    options = make_options(tmp_path, base_model)
    prepare_here(options)
    fresh = sorted(tmp_path.rglob("*"))
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / "scores" / "zero_shot").mkdir(parents=True)
    (tmp_path / "scores" / "adapter.safetensors").symlink_to(base_model)

    prepare_here(options)

    assert sorted(tmp_path.rglob("*")) == fresh
    assert any(base_model.iterdir())


def test_mounted_folders_are_emptied_and_stay(
    tmp_path: Path, base_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> None:
        raise OSError(errno.EBUSY, "it is mounted", str(path))

    for name in ("ca", "operator", "coordinator", "agents/evaluator"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(Path, "rmdir", refuse)
    options = make_options(tmp_path, base_model)
    prepare_here(options)  # into the empty folders that were mounted
    (tmp_path / "ca" / "left").touch()  # by an attempt that was killed

    prepare_here(options)

    assert not (tmp_path / "ca" / "left").exists()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_operators_file_says_the_same_terms(tmp_path: Path, strategy: str) -> None:
    terms = make_terms(aggregation=aggregation_of(strategy))
    write_terms(tmp_path / "terms.toml", terms)
    assert load_terms_toml(tmp_path / "terms.toml") == terms

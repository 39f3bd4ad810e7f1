"""What lies in the registry after a round: whole folders, never changed, and a pointer to the one that is served."""

from __future__ import annotations

import json
import os
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from coordinator.app.publish_adapter import lineage, model_card, publish
from coordinator.domain.values import Run
from tests.fakes.coordinator_updates import digest_bytes
from tests.fakes.coordinator_values import (
    SITES,
    accepted,
    after,
    candidate_ready,
    everyone_present,
    make_scores,
    make_update,
    scored,
    selecting_run,
)
from tests.fakes.coordinator_world import World, coordinator, evaluator

FILES = ["README.md", "adapter_config.json", "adapter_model.safetensors", "fedmedlora.json"]


def committed_run(*f1_tenths: int) -> Run:
    """A run of as many closed rounds as there are scores."""
    run = selecting_run()
    for number, tenths in enumerate(f1_tenths, start=1):
        run = after(run, everyone_present())
        for size, site in enumerate(SITES, start=1):
            run = after(run, accepted(site, number, update=make_update(f"{site}{number}", 10 * size, 100 * size)))
        run = after(run, candidate_ready(run), scored(number, f1_tenths=tenths))
    return run


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"weights of the candidate")
    return path


def refuse(*_paths: object) -> None:
    raise OSError("another file system")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_version_is_a_plain_peft_folder_with_card_and_lineage(tmp_path: Path, weights: Path) -> None:
    run = committed_run(5)
    folder = publish(tmp_path / "registry", run, run.rounds[0], weights)
    assert folder == tmp_path / "registry" / "trial" / "v0001"
    assert sorted(contents(folder)) == FILES
    assert contents(folder)["adapter_model.safetensors"] == b"weights of the candidate"


def test_the_configuration_says_rank_alpha_and_modules_and_no_local_path(tmp_path: Path, weights: Path) -> None:
    run = committed_run(5)
    folder = publish(tmp_path / "registry", run, run.rounds[0], weights)
    config = json.loads(contents(folder)["adapter_config.json"])
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (2, 8, ["q_proj", "v_proj"])
    assert (config["peft_type"], config["base_model_name_or_path"]) == ("LORA", "tiny")
    assert str(tmp_path) not in "".join(content.decode() for content in contents(folder).values())


def test_the_lineage_names_parent_contributors_digests_and_terms() -> None:
    run = committed_run(5)
    document = lineage(run, run.rounds[0])
    assert run.first_adapter is not None and run.rounds[0].candidate is not None
    assert (document["parent_digest"], document["digest"]) == (run.first_adapter.digest, run.rounds[0].candidate.digest)
    assert (document["round"], document["phase"], document["terms_digest"]) == (1, "committed", run.terms.digest)
    assert document["terms"] == json.loads(run.terms.canonical)
    roster = document["roster"]
    assert isinstance(roster, list)
    assert [(entry["site"], entry["num_examples"], entry["num_label_tokens"]) for entry in roster] == [
        ("anna", 10, 100),
        ("berta", 20, 200),
        ("clara", 30, 300),
    ]
    updates = [entry.update for entry in run.rounds[0].roster]
    assert [entry["update_digest"] for entry in roster] == [update and update.file.digest for update in updates]
    assert sum(entry["weight"] for entry in roster) == 1


def test_the_second_versions_parent_is_the_first() -> None:
    run = committed_run(5, 6)
    assert lineage(run, run.rounds[1])["parent_digest"] == lineage(run, run.rounds[0])["digest"]


def test_the_card_holds_the_lineage_for_a_person() -> None:
    run = committed_run(5)
    card = model_card(run, run.rounds[0])
    assert run.rounds[0].candidate is not None
    for expected in (
        "trial, version 1",
        run.rounds[0].candidate.digest,
        run.rounds[0].global_adapter.digest,
        run.terms.digest,
        run.terms.base_model.weights_digest,
        "**committed**",
        "strict_f1 0.5",
        "| berta | accepted | 20 | 0.3333 |",
    ):
        assert expected in card, expected
    assert "subset" not in card


def test_the_card_begins_with_what_a_hub_reads() -> None:
    run = committed_run(5)
    head = re.match(r"---\n(.*?)\n---\n", model_card(run, run.rounds[0]), re.DOTALL)
    assert head is not None
    assert head[1].splitlines()[:2] == ["library_name: peft", "base_model: tiny"]


def test_the_card_of_an_unscored_candidate_says_so() -> None:
    run = committed_run(5)
    assert "not scored" in model_card(run, replace(run.rounds[0], scores=None))


@pytest.mark.parametrize("is_unscored", [True, False])
def test_the_lineage_says_whether_a_candidate_was_promoted_unscored(is_unscored: bool) -> None:
    run = committed_run(5)
    assert lineage(run, replace(run.rounds[0], is_unscored=is_unscored))["is_unscored"] is is_unscored


def test_publishing_twice_changes_nothing(tmp_path: Path, weights: Path) -> None:
    run = committed_run(5)
    folder = publish(tmp_path / "registry", run, run.rounds[0], weights)
    before = contents(folder)
    other_weights = tmp_path / "other.safetensors"
    other_weights.write_bytes(b"other weights")
    publish(tmp_path / "registry", run, replace(run.rounds[0], scores=make_scores(1)), other_weights)
    assert contents(folder) == before


def test_served_points_at_the_last_promoted_version(tmp_path: Path, weights: Path) -> None:
    run = committed_run(5, 6)
    for closed in run.rounds[:2]:
        publish(tmp_path / "registry", run, closed, weights)
    served = tmp_path / "registry" / "trial" / "served"
    assert served.is_symlink() and not served.readlink().is_absolute()
    assert served.resolve() == (tmp_path / "registry" / "trial" / "v0002").resolve()


def test_a_rejected_version_is_published_and_not_served(tmp_path: Path, weights: Path) -> None:
    run = committed_run(5, 4)
    for closed in run.rounds[:2]:
        publish(tmp_path / "registry", run, closed, weights)
    registry = tmp_path / "registry" / "trial"
    assert sorted(path.name for path in registry.iterdir()) == ["served", "v0001", "v0002"]
    assert (registry / "served").resolve().name == "v0001"
    assert json.loads(contents(registry / "v0002")["fedmedlora.json"])["phase"] == "rejected"


def test_publishing_an_earlier_version_late_does_not_take_the_pointer_back(tmp_path: Path, weights: Path) -> None:
    run = committed_run(5, 6)
    for closed in (run.rounds[1], run.rounds[0]):
        publish(tmp_path / "registry", run, closed, weights)
    assert (tmp_path / "registry" / "trial" / "served").resolve().name == "v0002"


def test_what_a_crash_left_half_written_is_written_anew(tmp_path: Path, weights: Path) -> None:
    run = committed_run(5)
    draft = tmp_path / "registry" / "trial" / ".v0001.draft"
    draft.mkdir(parents=True)
    (draft / "adapter_config.json").write_text("half a con")
    folder = publish(tmp_path / "registry", run, run.rounds[0], weights)
    assert sorted(contents(folder)) == FILES
    assert not draft.exists()


def test_weights_are_copied_where_they_cannot_be_linked(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", refuse)
    run = committed_run(5)
    folder = publish(tmp_path / "registry", run, run.rounds[0], weights)
    assert contents(folder)["adapter_model.safetensors"] == weights.read_bytes()


@pytest.mark.parametrize("is_linked", [True, False])
def test_everything_of_a_version_is_durable_before_it_counts_as_published(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, is_linked: bool
) -> None:
    registry, synced = tmp_path / "registry", dict[Path, bool]()
    sync = os.fsync

    def noting(handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        synced[path] = (registry / "trial" / "served").is_symlink()
        sync(handle)

    monkeypatch.setattr(os, "fsync", noting)
    if not is_linked:
        monkeypatch.setattr(os, "link", refuse)
    run = committed_run(5)
    publish(registry, run, run.rounds[0], weights)
    draft = registry / "trial" / ".v0001.draft"
    assert synced.keys() == {*(draft / name for name in FILES), draft, registry / "trial", registry, tmp_path}
    assert synced[registry / "trial"]  # the pointer is durable too


@pytest.mark.parametrize("is_linked", [True, False])
def test_published_files_cannot_be_written_to(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, is_linked: bool
) -> None:
    if not is_linked:
        monkeypatch.setattr(os, "link", refuse)
    run = committed_run(5)
    folder = publish(tmp_path / "registry", run, run.rounds[0], weights)
    assert {path.stat().st_mode & 0o222 for path in folder.iterdir()} == {0}


def test_each_run_publishes_below_its_own_name(tmp_path: Path, weights: Path) -> None:
    run = committed_run(5)
    for name in ("one", "two"):
        named = replace(run, terms=replace(run.terms, name=name))
        folder = publish(tmp_path / "registry", named, named.rounds[0], weights)
        assert folder == tmp_path / "registry" / name / "v0001"


def test_a_failure_half_way_leaves_no_version(tmp_path: Path, weights: Path) -> None:
    run = committed_run(5)
    with pytest.raises(FileNotFoundError):
        publish(tmp_path / "registry", run, run.rounds[0], tmp_path / "no such file")
    assert not (tmp_path / "registry" / "trial" / "v0001").exists()
    publish(tmp_path / "registry", run, run.rounds[0], weights)
    assert (tmp_path / "registry" / "trial" / "served").resolve().name == "v0001"


# From a whole round


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with coordinator(tmp_path) as world:
        yield world


async def test_what_is_published_is_the_candidate_byte_for_byte(world: World) -> None:
    await world.training()
    await world.answer(*SITES)
    await world.perform_pending()
    candidate = world.candidate_bytes()
    assignment = await world.poll.wait(evaluator(), None)
    assert assignment is not None
    await world.answers.take_scores(evaluator(), assignment.assignment_id, make_scores())
    await world.perform_pending()
    folder = world.registry / "trial" / "v0001"
    assert contents(folder)["adapter_model.safetensors"] == candidate
    assert json.loads(contents(folder)["fedmedlora.json"])["digest"] == digest_bytes(candidate)

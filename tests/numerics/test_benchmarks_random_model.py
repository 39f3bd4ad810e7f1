"""The random base model that the benchmarks train has the shape that it was asked for, and the trainer loads it."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.random_model import make_random_model
from benchmarks.shapes import ModelShape, adapter_spec
from common.adapter import WireDtype
from common.terms import LoraTerms, Quantization
from site_agent.trainer.training.base_model import load_base_model
from site_agent.trainer.training.lora import adapter_spec as adapter_spec_of
from tests.tiny_model import make_tiny_model

SHAPE = ModelShape(layers=2, hidden=64, key_value=32, intermediate=96, head=16, vocabulary=300, is_tied=False)


def test_a_random_model_has_the_shape_that_was_asked_for(tmp_path: Path) -> None:
    tokenizer_of = make_tiny_model(tmp_path / "tiny")
    folder = make_random_model(tmp_path / "random", SHAPE, tokenizer_of, "cpu")
    loaded = load_base_model(folder, torch.device("cpu"), Quantization.NONE)
    (head,) = loaded.head.parameters()
    assert head.shape == (300, 64) and float(head.detach().float().std()) > 0
    assert adapter_spec_of(folder, LoraTerms(), WireDtype.BF16) == adapter_spec(SHAPE, LoraTerms(), WireDtype.BF16)

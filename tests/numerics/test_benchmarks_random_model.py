"""The random base model that the benchmarks train has the shape that it was asked for, and the trainer loads it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.random_model import make_random_model
from benchmarks.shapes import ModelShape, adapter_spec
from common.adapter import WireDtype
from common.terms import LoraTerms, Quantization
from site_agent.trainer.training.base_model import load_base_model
from site_agent.trainer.training.lora import adapter_spec as adapter_spec_of
from tests.tiny_model import make_tiny_model

SHAPE = ModelShape(layers=2, hidden=64, key_value=32, intermediate=96, head=16, vocabulary=300, is_tied=False)


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_random_model_has_the_shape_that_was_asked_for(is_tied: bool, tmp_path: Path) -> None:
    shape, tokenizer_of = replace(SHAPE, is_tied=is_tied), make_tiny_model(tmp_path / "tiny")
    folder = make_random_model(tmp_path / "random", shape, tokenizer_of, "cpu")
    loaded = load_base_model(folder, torch.device("cpu"), Quantization.NONE)
    (head,) = loaded.head.parameters()
    assert head.shape == (300, 64) and float(head.detach().float().std()) > 0
    assert (head is loaded.model.get_input_embeddings().weight) is is_tied
    assert adapter_spec_of(folder, LoraTerms(), WireDtype.BF16) == adapter_spec(shape, LoraTerms(), WireDtype.BF16)


def test_nothing_that_is_there_is_written_over(tmp_path: Path) -> None:
    with pytest.raises(FileExistsError):
        make_random_model(tmp_path, SHAPE, tmp_path, "cpu")

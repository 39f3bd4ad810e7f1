"""Our reader and writer against safetensors, torch and peft themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from common.adapter import TensorSpec, WireDtype
from common.weights_io import WeightsReader, WeightsWriter, check_update, write_weights


@pytest.mark.parametrize(("dtype", "torch_dtype"), [(WireDtype.BF16, torch.bfloat16), (WireDtype.F32, torch.float32)])
def test_torch_loads_what_we_write(tmp_path: Path, dtype: WireDtype, torch_dtype: torch.dtype) -> None:
    values = np.random.default_rng(0).normal(size=(33, 7))
    write_weights(tmp_path / "w", {"a": values}, dtype)
    loaded = load_file(tmp_path / "w")["a"]
    assert loaded.dtype == torch_dtype
    torch.testing.assert_close(loaded, torch.from_numpy(values).to(torch_dtype), rtol=0, atol=0)
    with safe_open(tmp_path / "w", "pt") as file:
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize("torch_dtype", [torch.bfloat16, torch.float32])
def test_we_read_what_torch_writes(tmp_path: Path, torch_dtype: torch.dtype) -> None:
    tensors = {name: torch.randn(5, 3, dtype=torch_dtype) for name in ("z", "a", "m")}
    save_file(tensors, tmp_path / "w", metadata={"format": "pt"})
    with WeightsReader(tmp_path / "w") as reader:
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(reader.tensor(name), tensor.float().numpy())


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    return LlamaForCausalLM(LlamaConfig(vocab_size=32, num_key_value_heads=1, **sizes))


def test_a_peft_adapter_comes_back_the_same_through_our_reader_and_writer(tmp_path: Path) -> None:
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    model = get_peft_model(tiny_llama(), lora)
    model.save_pretrained(str(tmp_path))
    ours = tmp_path / "ours.safetensors"
    with WeightsReader(tmp_path / "adapter_model.safetensors") as reader:
        # Reversed: the order of tensors in a file is its writer's choice.
        specs = [TensorSpec(name=slot.name, shape=slot.shape) for slot in reversed(reader.layout.tensors)]
        check_update(reader, specs, WireDtype.F32)
        with WeightsWriter(ours, specs, WireDtype.F32) as writer:
            for spec in specs:
                writer.write(spec.name, reader.tensor(spec.name))
    ours.replace(tmp_path / "adapter_model.safetensors")
    again = PeftModel.from_pretrained(tiny_llama(), str(tmp_path))
    tokens = torch.arange(8).unsqueeze(0)
    torch.testing.assert_close(again(tokens).logits, model.eval()(tokens).logits, rtol=0, atol=0)

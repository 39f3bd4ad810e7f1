"""A folder that `adapter fetch` fills is one that peft loads, with the very weights that were sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import AutoModelForCausalLM

from common.adapter import AdapterSpec, TensorSpec, WireDtype
from common.ids import Digest
from common.terms import LoraTerms, Terms
from common.weights_io import WeightsReader, write_weights
from site_agent.app.fetch_adapter import AdapterVersion, RunAdapters, fetch_served_adapter
from site_agent.app.retrying import Patience
from tests.fakes.site_values import make_ref, make_terms
from tests.tiny_model import TINY_TARGET_MODULES, make_tiny_model

RANK, ALPHA = 4, 16


@dataclass(frozen=True, kw_only=True)
class OneFileRegistry:
    """Knows one run with one promoted version."""

    known: RunAdapters
    content: bytes

    async def adapters_of(self, run: str) -> RunAdapters:
        return self.known

    async def download(self, digest: Digest, offset: int) -> AsyncGenerator[bytes, None]:
        yield self.content[offset:]


def write_adapter(model_folder: Path, path: Path) -> AdapterSpec:
    """Write random factors for every linear layer of the tiny model, under peft's names."""
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TINY_TARGET_MODULES))
    shapes = {
        name: tuple(value.shape) for name, value in get_peft_model_state_dict(get_peft_model(base, config)).items()
    }
    random = np.random.default_rng(0)
    write_weights(path, {name: random.normal(size=shape) for name, shape in shapes.items()}, WireDtype.BF16)
    return AdapterSpec(
        lora_rank=RANK,
        lora_alpha=ALPHA,
        target_modules=TINY_TARGET_MODULES,
        dtype=WireDtype.BF16,
        tensors=tuple(TensorSpec(name=name, shape=shapes[name]) for name in sorted(shapes)),
    )


def terms_of_adapter() -> Terms:
    lora = LoraTerms(lora_rank=RANK, lora_alpha=ALPHA, target_modules=TINY_TARGET_MODULES)
    return replace(make_terms(), lora=lora)


def test_peft_loads_what_was_fetched(tmp_path: Path) -> None:
    model_folder = make_tiny_model(tmp_path / "model")
    sent = tmp_path / "sent.safetensors"
    spec = write_adapter(model_folder, sent)
    version = AdapterVersion(
        version=1,
        adapter=make_ref(spec, sent.read_bytes()),
        parent_digest=None,
        is_promoted=True,
        contributors=("anna", "berta"),
    )
    known = RunAdapters(versions=(version,), terms=terms_of_adapter(), spec=spec)
    out = tmp_path / "adapter"
    out.mkdir()
    registry = OneFileRegistry(known=known, content=sent.read_bytes())
    asyncio.run(
        fetch_served_adapter(registry, "trial", out, Patience(jitter=lambda: 0.0), lambda error, attempt, wait: None)
    )
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), out)
    loaded = get_peft_model_state_dict(model)
    with WeightsReader(sent) as reader:
        assert loaded.keys() == set(spec.names)
        assert all(torch.equal(loaded[name].float(), torch.from_numpy(reader.tensor(name))) for name in spec.names)
    config = model.peft_config["default"].to_dict()
    assert (config["r"], config["lora_alpha"]) == (RANK, ALPHA)

"""A folder that `adapter fetch` fills is one that peft loads, with the very weights that were sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import AutoModelForCausalLM

from common.adapter import B_SUFFIX, AdapterSpec, TensorSpec, WireDtype
from common.ids import Digest
from common.terms import LoraTerms, Terms
from common.weights_io import WeightsReader, write_weights
from site_agent.app.fetch_adapter import AdapterVersion, RunAdapters, fetch_served_adapter
from site_agent.app.retrying import Patience
from site_agent.trainer.adapter_folder import read_terms
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


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    with WeightsReader(path) as reader:
        return {slot.name: torch.from_numpy(reader.tensor(slot.name)) for slot in reader.layout.tensors}


def terms_of_adapter() -> Terms:
    lora = LoraTerms(lora_rank=RANK, lora_alpha=ALPHA, target_modules=TINY_TARGET_MODULES)
    return replace(make_terms(), lora=lora)


@pytest.mark.parametrize("is_personal", [False, True])
def test_peft_loads_what_was_fetched(tmp_path: Path, is_personal: bool) -> None:
    model_folder = make_tiny_model(tmp_path / "model")
    sent = tmp_path / "sent.safetensors"
    spec = write_adapter(model_folder, sent)
    version = AdapterVersion(
        version=1,
        adapter=make_ref(spec, sent.read_bytes()),
        parent_digest=None,
        is_promoted=not is_personal,  # a site's own factors may be looked at before anything is served
        contributors=("anna", "berta"),
    )
    known = RunAdapters(versions=(version,), terms=terms_of_adapter(), spec=spec)
    out = tmp_path / "adapter"
    out.mkdir()
    registry = OneFileRegistry(known=known, content=sent.read_bytes())
    own = tmp_path / "own.safetensors" if is_personal else None
    expected = tensors_of(sent)
    if own is not None:
        kept = {name: values.numpy() + 1 for name, values in expected.items() if name.endswith(B_SUFFIX)}
        write_weights(own, kept, WireDtype.F32)
        expected |= {name: torch.from_numpy(values).bfloat16().float() for name, values in kept.items()}
    patience = Patience(jitter=lambda: 0.0)
    asyncio.run(fetch_served_adapter(registry, "trial", out, patience, lambda error, attempt, wait: None, own))
    assert read_terms(out) == terms_of_adapter()  # which compares the weights with the lineage
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model_folder), out)
    loaded = get_peft_model_state_dict(model)
    assert loaded.keys() == set(spec.names)
    assert all(torch.equal(loaded[name].float(), expected[name]) for name in spec.names)
    config = model.peft_config["default"].to_dict()
    assert (config["r"], config["lora_alpha"]) == (RANK, ALPHA)

"""What a run publishes is what peft loads: the oracle's mean of the uploads, on a real (tiny) model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from transformers import AutoModelForCausalLM

from common.adapter import AdapterSpec, TensorSpec, WireDtype, check_spec
from common.terms import GateMetric, GateTerms, LoraTerms
from tests.fakes.coordinator_updates import read_float64
from tests.fakes.coordinator_values import SITES, make_terms
from tests.fakes.coordinator_world import coordinator
from tests.tiny_model import TINY_TARGET_MODULES, make_tiny_model

RANK, ALPHA = 4, 16
TERMS = replace(
    make_terms(gate=GateTerms(metric=GateMetric.NONE)),
    lora=LoraTerms(lora_rank=RANK, lora_alpha=ALPHA, target_modules=TINY_TARGET_MODULES),
)


def spec_of(model_folder: Path) -> AdapterSpec:
    """The specification of an adapter on every linear layer of the model, in peft's own names."""
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(TINY_TARGET_MODULES))
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(model_folder), config)
    shapes = {name: tuple(value.shape) for name, value in get_peft_model_state_dict(model).items()}
    return check_spec(
        AdapterSpec(
            lora_rank=RANK,
            lora_alpha=ALPHA,
            target_modules=TINY_TARGET_MODULES,
            dtype=WireDtype.BF16,
            tensors=tuple(TensorSpec(name=name, shape=shapes[name]) for name in sorted(shapes)),
        )
    )


async def test_peft_loads_what_a_round_published_and_it_is_the_mean_of_the_uploads(tmp_path: Path) -> None:
    model_folder = make_tiny_model(tmp_path / "model")
    spec = spec_of(model_folder)
    async with coordinator(tmp_path / "state") as world:
        await world.training(TERMS, spec)
        uploads = [read_float64(world.honest_bytes(number)) for number in range(len(SITES))]
        await world.answer(*SITES)
        await world.perform_pending()
        served = world.registry / "trial" / "served"

    base = AutoModelForCausalLM.from_pretrained(model_folder)
    tokens = torch.arange(20).unsqueeze(0)
    with torch.no_grad():
        before = base(tokens).logits
        model = PeftModel.from_pretrained(base, served)
        after = model(tokens).logits
    loaded = get_peft_model_state_dict(model)
    assert sorted(loaded) == list(spec.names)
    for name in spec.names:
        # honest updates of the sites come with 100, 200 and 300 label tokens
        mean = (uploads[0][name] + 2 * uploads[1][name] + 3 * uploads[2][name]) / 6
        got = loaded[name].double().numpy()
        # Half a unit in bfloat16's last place; numbers that cancel leave the rounding of float64.
        assert np.allclose(got, mean, rtol=2.0**-8, atol=1e-15), name
    assert not torch.equal(before, after)

"""LoRA factors: the first ones, their names and shapes, and what merging does."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file

from common.adapter import AdapterSpec, FactorSet, WireDtype
from common.errors import InputInvalidError
from common.terms import LoraTerms
from site_agent.trainer.training.adapter_files import read_adapter, write_adapter
from site_agent.trainer.training.base_model import LoadedModel
from site_agent.trainer.training.lora import (
    adapter_parameters,
    adapter_spec,
    add_beside,
    attach_adapter,
    factors_of,
    initial_adapter,
    set_adapter,
    with_adapter,
)
from tests.tiny_model import TINY_TARGET_MODULES, load_tiny_model, make_tiny_model

LORA = LoraTerms(lora_rank=4, lora_alpha=8, target_modules=TINY_TARGET_MODULES)
IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def loaded(folder: Path) -> LoadedModel:
    return load_tiny_model(folder)


@pytest.fixture(scope="module")
def spec(folder: Path) -> AdapterSpec:
    return adapter_spec(folder, LORA, WireDtype.BF16)


def random_adapter(spec: AdapterSpec) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {one.name: torch.randn(one.shape, generator=generator) * 0.1 for one in spec.tensors}


def test_the_specification_has_the_names_and_shapes_of_the_loaded_model(loaded: LoadedModel, spec: AdapterSpec) -> None:
    parameters = adapter_parameters(attach_adapter(loaded.model, LORA))
    assert [(one.name, one.shape) for one in spec.tensors] == [
        (name, tuple(parameter.shape)) for name, parameter in parameters.items()
    ]


def test_the_first_a_is_uniform_within_one_over_the_root_of_its_inputs(spec: AdapterSpec) -> None:
    for name, tensor in initial_adapter(spec, seed=1).items():
        if "lora_A" in name:
            bound = 1 / math.sqrt(tensor.shape[1])
            assert 0.9 * bound < tensor.abs().max() <= bound
            assert tensor.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.15)


def test_the_first_a_spreads_as_far_as_pefts_own(loaded: LoadedModel, spec: AdapterSpec) -> None:
    theirs = adapter_parameters(get_peft_model(loaded.model, LoraConfig(r=4, target_modules=list(TINY_TARGET_MODULES))))
    ours = initial_adapter(spec, seed=1)
    for name, tensor in theirs.items():
        assert ours[name].std().item() == pytest.approx(tensor.std().item(), rel=0.2)


def test_the_first_b_is_zero(spec: AdapterSpec) -> None:
    assert all(not tensor.any() for name, tensor in initial_adapter(spec, seed=1).items() if "lora_B" in name)


def test_the_first_adapter_is_a_function_of_seed_and_name_alone(spec: AdapterSpec) -> None:
    name = spec.names[0]
    first = initial_adapter(spec, seed=1)
    # Written down once: another machine, device or order of modules must give the same numbers.
    assert first[name].flatten()[:3].tolist() == pytest.approx(
        [-0.07947906851768494, -0.08547186106443405, -0.019528120756149292], rel=1e-7
    )
    assert not torch.equal(first[name], initial_adapter(spec, seed=2)[name])


def test_the_first_adapter_changes_no_output(loaded: LoadedModel, spec: AdapterSpec) -> None:
    before = loaded.model(input_ids=IDS).logits
    adapted = with_adapter(loaded, LORA, initial_adapter(spec, seed=1))
    torch.testing.assert_close(adapted.model(input_ids=IDS).logits, before)


def test_an_adapter_goes_through_a_file_and_comes_back_rounded_to_bf16(tmp_path: Path, spec: AdapterSpec) -> None:
    tensors = random_adapter(spec)
    write_adapter(tmp_path / "adapter.safetensors", tensors, WireDtype.BF16)
    back = read_adapter(tmp_path / "adapter.safetensors")
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor.bfloat16().float()) for name, tensor in tensors.items())


def test_the_file_is_what_safetensors_reads(tmp_path: Path, spec: AdapterSpec) -> None:
    tensors = random_adapter(spec)
    write_adapter(tmp_path / "adapter.safetensors", tensors, WireDtype.BF16)
    back = load_file(tmp_path / "adapter.safetensors")
    assert list(back) == sorted(tensors)
    assert all(torch.equal(back[name], tensor.bfloat16()) for name, tensor in tensors.items())


def test_peft_computes_the_same_with_an_adapter_file_of_ours(
    tmp_path: Path, loaded: LoadedModel, spec: AdapterSpec
) -> None:
    tensors = random_adapter(spec)
    write_adapter(tmp_path / "adapter_model.safetensors", tensors, WireDtype.F32)
    settings = LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=8, target_modules=list(TINY_TARGET_MODULES))
    settings.save_pretrained(str(tmp_path))
    theirs = PeftModel.from_pretrained(copy.deepcopy(loaded.model), str(tmp_path))
    ours = attach_adapter(loaded.model, LORA)
    set_adapter(ours, tensors)
    torch.testing.assert_close(ours(input_ids=IDS).logits, theirs(input_ids=IDS).logits, rtol=0, atol=0)


def test_folding_the_adapter_in_gives_the_outputs_of_the_adapted_model(loaded: LoadedModel, spec: AdapterSpec) -> None:
    tensors = random_adapter(spec)
    apart = attach_adapter(copy.deepcopy(loaded.model), LORA)
    set_adapter(apart, tensors)
    folded = with_adapter(loaded, LORA, tensors)
    torch.testing.assert_close(folded.model(input_ids=IDS).logits, apart(input_ids=IDS).logits, rtol=1e-4, atol=1e-5)


def test_factors_are_fp32_on_a_bf16_base(loaded: LoadedModel) -> None:
    adapted = attach_adapter(loaded.model.bfloat16(), LORA)
    assert {parameter.dtype for parameter in adapter_parameters(adapted).values()} == {torch.float32}


@pytest.mark.parametrize(
    ("factors", "kinds"),
    [(FactorSet.A_AND_B, {"A", "B"}), (FactorSet.A_ONLY, {"A"}), (FactorSet.B_ONLY, {"B"})],
)
def test_a_factor_set_names_its_factors(loaded: LoadedModel, factors: FactorSet, kinds: set[str]) -> None:
    chosen = factors_of(attach_adapter(loaded.model, LORA), factors)
    assert {name.removesuffix(".weight")[-1] for name in chosen} == kinds


def test_a_target_module_that_the_model_lacks_is_refused(folder: Path) -> None:
    lora = LoraTerms(lora_rank=4, lora_alpha=8, target_modules=("c_attn", "q_proj"))
    with pytest.raises(InputInvalidError, match="c_attn"):
        adapter_spec(folder, lora, WireDtype.BF16)


def test_an_adapter_of_another_rank_is_refused(loaded: LoadedModel, spec: AdapterSpec) -> None:
    adapted = attach_adapter(loaded.model, LoraTerms(lora_rank=2, lora_alpha=8, target_modules=TINY_TARGET_MODULES))
    with pytest.raises(InputInvalidError, match=r"expected \[2, 128\], got \[4, 128\]"):
        set_adapter(adapted, random_adapter(spec))


def test_an_adapter_without_one_of_its_tensors_is_refused(loaded: LoadedModel, spec: AdapterSpec) -> None:
    tensors = random_adapter(spec)
    del tensors[spec.names[0]]
    with pytest.raises(InputInvalidError, match="1 names that differ"):
        set_adapter(attach_adapter(loaded.model, LORA), tensors)


def test_what_is_added_beside_counts_with_what_is_trained_and_stays_as_it_is(folder: Path, spec: AdapterSpec) -> None:
    trained, beside = random_adapter(spec), random_adapter(spec.at_rank(6))
    both = load_tiny_model(folder)
    adapted = attach_adapter(both.model, LORA)
    set_adapter(adapted, trained)
    add_beside(adapted, LORA, beside, 6)
    assert set(adapter_parameters(adapted)) == set(spec.names)
    # One adapter of rank 10 that has the ranks of both: each at its own scale, alpha / r.
    joined = {
        name: torch.cat([trained[name], beside[name]])
        if "lora_A" in name
        else torch.cat([trained[name] * 10 / 4, beside[name] * 10 / 6], 1)
        for name in trained
    }
    one = load_tiny_model(folder)
    wide = attach_adapter(one.model, replace(LORA, lora_rank=10))
    set_adapter(wide, joined)
    with torch.no_grad():
        torch.testing.assert_close(adapted(IDS).logits, wide(IDS).logits, rtol=1e-4, atol=1e-4)
    adapted(IDS).logits.sum().backward()
    for name, parameter in adapted.named_parameters():
        assert (parameter.grad is not None) == name.endswith(".default.weight"), name

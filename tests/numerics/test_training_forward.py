"""The loss with its two savings against the loss that transformers computes on whole sequences."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CohereConfig, Gemma2Config, PretrainedConfig

from common.errors import InputInvalidError, Reason
from common.terms import LoraTerms, Quantization, TrainingTerms
from site_agent.trainer.training.base_model import LoadedModel, load_base_model
from site_agent.trainer.training.batches import collate
from site_agent.trainer.training.evaluation import token_loss
from site_agent.trainer.training.forward import label_losses
from site_agent.trainer.training.lora import adapter_parameters, attach_adapter
from site_agent.trainer.training.tokens import TokenizedExample
from tests.tiny_model import TINY_TARGET_MODULES, load_tiny_model, make_tiny_model

EXAMPLES = [
    TokenizedExample(ids=(5, 6, 7, 8, 20, 21, 22, 1), learned_from=6),
    TokenizedExample(ids=(5, 6, 7, 8, 30, 31, 32, 33, 34, 35, 1), learned_from=5),
    TokenizedExample(ids=(5, 6, 7, 8, 40, 1), learned_from=5),
]


@pytest.fixture
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_tiny_model(make_tiny_model(tmp_path_factory.mktemp("tiny")))


def oracle_losses(loaded: LoadedModel) -> torch.Tensor:
    """One example at a time, whole logits, nothing shared and nothing padded."""
    losses = []
    for example in EXAMPLES:
        ids = torch.tensor([example.ids])
        logits = loaded.model(input_ids=ids).logits[0, :-1]
        each = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        losses.append(each[example.learned_from - 1 :])
    return torch.cat(losses)


@pytest.mark.parametrize("share_prefix", [True, False])
def test_label_losses_equal_those_of_whole_sequences(loaded: LoadedModel, share_prefix: bool) -> None:
    batch = collate(EXAMPLES, loaded.device, share_prefix=share_prefix)
    assert batch.prefix.shape[1] == (4 if share_prefix else 0)
    torch.testing.assert_close(label_losses(loaded, batch), oracle_losses(loaded), rtol=1e-5, atol=1e-5)


def gradient_of(losses: torch.Tensor) -> None:
    losses.mean().backward()  # type: ignore[no-untyped-call]


def test_sharing_the_prefix_changes_no_gradient(loaded: LoadedModel) -> None:
    adapted = attach_adapter(loaded.model, LoraTerms(lora_rank=2, lora_alpha=4, target_modules=TINY_TARGET_MODULES))
    parameters = adapter_parameters(adapted)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in parameters.values():
            parameter.normal_(std=0.1)
    gradient_of(oracle_losses(loaded))
    expected = {name: parameter.grad.clone() for name, parameter in parameters.items() if parameter.grad is not None}
    adapted.zero_grad()
    gradient_of(label_losses(loaded, collate(EXAMPLES, loaded.device)))
    assert expected.keys() == parameters.keys()
    largest = max(gradient.abs().max().item() for gradient in expected.values())
    for name, parameter in parameters.items():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=1e-5 * largest)


def test_the_mean_loss_weighs_every_label_token_the_same(loaded: LoadedModel) -> None:
    terms = TrainingTerms(batch_size=2)
    loss = token_loss(loaded, EXAMPLES, terms, lambda done: None).mean
    assert loss == pytest.approx(oracle_losses(loaded).mean().item(), rel=1e-5)


def test_evaluation_reports_how_many_examples_are_done(loaded: LoadedModel) -> None:
    reported: list[int] = []
    token_loss(loaded, EXAMPLES, TrainingTerms(batch_size=2), reported.append)
    assert reported == [2, 3]


def test_a_loss_that_is_not_finite_is_refused(loaded: LoadedModel) -> None:
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            parameter.fill_(float("nan"))
    with pytest.raises(InputInvalidError) as caught:
        token_loss(loaded, EXAMPLES, TrainingTerms(), lambda done: None)
    assert caught.value.reason is Reason.LOSS_NOT_FINITE


@pytest.mark.parametrize(
    "config", [Gemma2Config(attn_logit_softcapping=None), Gemma2Config(final_logit_softcapping=None), CohereConfig()]
)
def test_a_model_whose_logits_are_more_than_its_head_is_refused(config: PretrainedConfig, tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path)
    config.save_pretrained(folder)
    with pytest.raises(InputInvalidError) as caught:
        load_base_model(folder, torch.device("cpu"), Quantization.NONE)
    assert caught.value.reason is Reason.SETTINGS_UNSUPPORTED

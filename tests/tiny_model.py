"""A random two-layer LLaMA with a byte-level tokenizer, made on the spot: real files, 0.1 M parameters, no download."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from common.terms import Quantization
from site_agent.trainer.training.base_model import LoadedModel, load_base_model

TINY_TARGET_MODULES = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
_SPECIAL_TOKENS = ("<|start|>", "<|end|>")
_CHAT_TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def make_tiny_model(folder: Path, *, seed: int = 0) -> Path:
    """Write config, weights (safetensors, fp32), tokenizer and chat template into ``folder``; 91 k parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=258,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        initializer_range=0.2,  # loud enough to have opinions, and to learn within a few steps
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def _write_tokenizer(folder: Path) -> None:
    """One token a byte, and the two that mark turns."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate((*_SPECIAL_TOKENS, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in _SPECIAL_TOKENS])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "pad_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "chat_template.jinja").write_text(_CHAT_TEMPLATE)


def load_tiny_model(folder: Path) -> LoadedModel:
    """The model of that folder on the CPU in fp32, where sums can be compared closely."""
    loaded = load_base_model(folder, torch.device("cpu"), Quantization.NONE)
    model: PreTrainedModel = loaded.model.float()  # type: ignore[no-untyped-call]
    return replace(loaded, model=model, dtype=torch.float32)


def write_passages(path: Path, count: int, *, word: str = "aspirin") -> Path:
    """``count`` annotated passages of two sentences each, as JSONL; ``word`` is a drug in all of them."""
    lines = []
    for number in range(count):
        text = f"{word} {number} mg was given. No fever on day {number}."
        drug = {"id": "T1", "type": "drug", "start": 0, "end": len(word), "text": word}
        start = text.index("fever")
        problem = {"id": "T2", "type": "problem", "start": start, "end": start + 5, "text": "fever"}
        record = {"id": f"p{number}", "text": text, "entities": [drug, problem], "relations": []}
        lines.append(json.dumps({**record, "meta": {"doc": f"d{number}"}}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_related_passages(path: Path, count: int, *, entity_id: str = "r") -> Path:
    """``count`` annotated passages of two sentences: a drug with its dosage and its adverse effect, and a problem."""
    lines = []
    for number in range(count):
        text = f"{number + 1} mg aspirin gave a rash. No fever."
        words = {"T1": ("drug", "aspirin"), "T2": ("dosage", f"{number + 1} mg"), "T3": ("problem", "rash")}
        words["T4"] = ("problem", "fever")
        entities = [
            {"id": key, "type": kind, "start": text.index(word), "end": text.index(word) + len(word), "text": word}
            for key, (kind, word) in words.items()
        ]
        relations = [
            {"type": "hasAttr", "head": "T1", "tail": "T2"},
            {"type": "adverse_effect", "head": "T1", "tail": "T3"},
        ]
        record = {"id": f"{entity_id}{number}", "text": text, "entities": entities, "relations": relations}
        lines.append(json.dumps({**record, "meta": {"doc": f"{entity_id}{number}"}}))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path

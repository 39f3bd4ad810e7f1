"""A random two-layer BERT whose word pieces are single characters, made on the spot: real files, no download."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def make_tiny_bert(folder: Path) -> Path:
    """Write config, weights (safetensors, float32) and tokenizer into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    size = write_tokenizer(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
    )
    BertModel(config, add_pooling_layer=True).save_pretrained(folder)
    return folder


def write_tokenizer(folder: Path) -> int:
    """Write a tokenizer as BERT's (lower case, no accents), and say how many ids it has."""
    letters = string.ascii_lowercase + string.digits + string.punctuation
    pieces = (*_SPECIAL, *letters, *(f"##{letter}" for letter in letters))
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.add_special_tokens(list(_SPECIAL))
    tokenizer.enable_padding(length=128)  # as the tokenizer of the lab's encoder comes
    tokenizer.save(str(folder / "tokenizer.json"))
    return len(pieces)

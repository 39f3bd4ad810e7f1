"""A base model's folder: where it lies, whether it is safe to load, and its digests. Loads no weights, needs no torch.

Digests (design law 12): a SHA-256 over a canonical list of ``name sha256`` lines, so that weights, tokenizer and chat
template can each be named in a run's terms. The weights' covers ``config.json`` and every ``.safetensors`` file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from common.errors import InputInvalidError, Reason
from common.ids import Digest, digest_of
from common.terms import BaseModelTerms

_CONFIG, _TOKENIZER_CONFIG, _CHAT_TEMPLATE = "config.json", "tokenizer_config.json", "chat_template.jinja"
_WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json", _CONFIG)
_TOKENIZER_PATTERNS = (
    "tokenizer.json",
    _TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)
# Weights that Python unpickles, which is running code.
_PICKLED_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".ckpt"})
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def resolve_base_model(location: str) -> Path:
    """The folder behind a local path or a hub id; with ``HF_HUB_OFFLINE=1`` a hub id must be in the local cache.

    Raises:
        InputInvalidError: BASE_MODEL_UNREADABLE.
    """
    folder = Path(location)
    if folder.is_dir():
        return folder
    if not _HUB_ID.fullmatch(location):
        raise _unreadable(f"base model: expected a folder that is there, or a hub id (owner/name), got {location!r}")
    from huggingface_hub import snapshot_download

    patterns = [*_WEIGHT_PATTERNS, *_TOKENIZER_PATTERNS, _CHAT_TEMPLATE]
    is_offline = os.environ.get("HF_HUB_OFFLINE") == "1"
    try:
        return Path(snapshot_download(location, allow_patterns=patterns, local_files_only=is_offline))
    except (OSError, ValueError) as error:  # every error of the hub's client is one of these
        raise _unreadable(f"base model {location}: expected a snapshot, got {type(error).__name__}") from error


def describe_base_model(folder: Path, name: str) -> BaseModelTerms:
    """The digests of a base model whose files are safe to load.

    Raises:
        InputInvalidError: BASE_MODEL_UNREADABLE.
    """
    _check_folder(folder)
    return BaseModelTerms(
        name=name,
        weights_digest=_manifest_digest(folder, _WEIGHT_PATTERNS),
        tokenizer_digest=_manifest_digest(folder, _TOKENIZER_PATTERNS),
        chat_template_digest=digest_of(_chat_template(folder)),
    )


def check_base_model(folder: Path, expected: BaseModelTerms) -> None:
    """Refuse a base model that is not the one of the run's terms.

    Raises:
        InputInvalidError: BASE_MODEL_MISMATCH or BASE_MODEL_UNREADABLE.
    """
    got = describe_base_model(folder, expected.name)
    differing = [
        f"{field}: expected {getattr(expected, field)}, got {getattr(got, field)}"
        for field in ("weights_digest", "tokenizer_digest", "chat_template_digest")
        if getattr(expected, field) != getattr(got, field)
    ]
    if differing:
        raise InputInvalidError(Reason.BASE_MODEL_MISMATCH, "; ".join(differing))


def _check_folder(folder: Path) -> None:
    """No pickle, no code, nothing that lies elsewhere. A hub snapshot's files are links into its own repository."""
    root = folder.resolve()
    allowed = root.parents[1] if root.parent.name == "snapshots" else root
    for path in sorted(folder.iterdir()):
        if path.suffix in _PICKLED_SUFFIXES:
            raise _unreadable(f"{path.name}: expected weights as .safetensors alone, got pickle")
        if not path.resolve().is_relative_to(allowed):
            raise _unreadable(f"{path.name}: expected a file inside the base model's folder, got a link out of it")
    if not any(folder.glob("*.safetensors")):
        raise _unreadable("base model: expected at least one .safetensors file, got none")
    for name in (_CONFIG, _TOKENIZER_CONFIG):
        if "auto_map" in _read_json(folder / name):
            raise _unreadable(f"{name}: expected a model without code of its own, got auto_map")


def _manifest_digest(folder: Path, patterns: Iterable[str]) -> Digest:
    paths = {path.name: path for pattern in patterns for path in folder.glob(pattern)}
    lines = [f"{name} {_sha256(path)}\n" for name, path in sorted(paths.items())]
    return digest_of("".join(lines).encode())


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _chat_template(folder: Path) -> bytes:
    """The template's own file goes before the one in the tokenizer's settings, as in transformers."""
    if (folder / _CHAT_TEMPLATE).is_file():
        return (folder / _CHAT_TEMPLATE).read_bytes()
    template = _read_json(folder / _TOKENIZER_CONFIG).get("chat_template")
    if not isinstance(template, str):
        raise _unreadable("base model: expected a chat template, got none")
    return template.encode()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _unreadable(f"{path.name}: expected a JSON object, got {type(error).__name__}") from error
    if not isinstance(document, dict):
        raise _unreadable(f"{path.name}: expected a JSON object, got {type(document).__name__}")
    return document


def _unreadable(message: str) -> InputInvalidError:
    return InputInvalidError(Reason.BASE_MODEL_UNREADABLE, message)


def main() -> int:
    """Print the ``[base_model]`` table of a run's terms; what ``fedmed-site model digest`` runs."""
    location = sys.argv[1]
    try:
        terms = describe_base_model(resolve_base_model(location), Path(location).name)
    except InputInvalidError as error:
        sys.stderr.write(f"{error.message}\n")
        return 1
    lines = [f"{field.name} = {json.dumps(getattr(terms, field.name))}" for field in fields(terms)]
    sys.stdout.write("\n".join(["[base_model]", *lines, ""]))
    return 0


if __name__ == "__main__":
    sys.exit(main())

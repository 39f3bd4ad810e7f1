"""The folder of an encoder: whether it is one, and its digests. It loads no weights, and needs no torch."""

from __future__ import annotations

import json
from pathlib import Path

from common.errors import InputInvalidError, Reason
from common.ids import digest_of
from common.terms import BaseModelTerms
from lab.encoder.package import sha256_of
from lab.encoder.words import TOKENIZER_FILE

_FETCH = "python -m lab.encoder.package --out"


def describe_encoder(folder: Path) -> BaseModelTerms:
    """Its digests, in the form of a base model's; it has no chat template.

    Raises:
        InputInvalidError: BASE_MODEL_UNREADABLE.
    """
    config = folder / "config.json"
    if not config.is_file():
        raise _unreadable(f"expected a BERT in {folder}, got none; {_FETCH} {folder} fetches one")
    try:
        kind = json.loads(config.read_bytes()).get("model_type")
    except (ValueError, AttributeError) as error:
        raise _unreadable(f"expected {config} to be a JSON object, got {type(error).__name__}") from error
    if kind != "bert":
        raise _unreadable(f"expected model_type 'bert' in {config}, got {kind!r}")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights or not (folder / TOKENIZER_FILE).is_file():
        raise _unreadable(
            f"expected .safetensors files and {TOKENIZER_FILE} in {folder}, got {len(weights)} of the former"
        )
    return BaseModelTerms(
        name=folder.name,
        weights_digest=digest_of(_manifest([config, *weights])),
        tokenizer_digest=digest_of(_manifest([folder / TOKENIZER_FILE])),
        chat_template_digest=digest_of(b""),
    )


def check_encoder(folder: Path, expected: BaseModelTerms) -> None:
    """Refuse an encoder that is not the expected one.

    Raises:
        InputInvalidError: BASE_MODEL_MISMATCH or BASE_MODEL_UNREADABLE.
    """
    got = describe_encoder(folder)
    pairs = ((got.weights_digest, expected.weights_digest), (got.tokenizer_digest, expected.tokenizer_digest))
    for here, there in pairs:
        if here != there:
            raise InputInvalidError(Reason.BASE_MODEL_MISMATCH, f"encoder: expected {there}, got {here}")


def _manifest(paths: list[Path]) -> bytes:
    return "".join(f"{path.name} {sha256_of(path)}\n" for path in paths).encode()


def _unreadable(message: str) -> InputInvalidError:
    return InputInvalidError(Reason.BASE_MODEL_UNREADABLE, f"encoder: {message}")

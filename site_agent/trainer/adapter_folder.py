"""A published adapter's folder: its LoRA settings, its lineage, and whether its weights are those of the lineage.

It loads no weights and needs no torch. A folder without a lineage is any PEFT folder; then nothing can be checked.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from common.errors import InputInvalidError, Reason
from common.peft_folder import CONFIG_FILE, LINEAGE_FILE, WEIGHTS_FILE
from common.terms import LoraTerms, Terms
from common.weights_io import file_digest

_TERMS = TypeAdapter(Terms)


def read_lora(folder: Path) -> LoraTerms:
    """The LoRA settings of ``adapter_config.json``.

    Raises:
        InputInvalidError: SETTINGS_UNSUPPORTED.
    """
    config = _read_json(folder / CONFIG_FILE)
    modules = config.get("target_modules")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not (isinstance(rank, int) and isinstance(alpha, int) and isinstance(modules, list)):
        raise _unsupported(f"{CONFIG_FILE}: expected r, lora_alpha and a list of target_modules")
    return LoraTerms(lora_rank=rank, lora_alpha=alpha, target_modules=tuple(sorted(map(str, modules))))


def read_terms(folder: Path) -> Terms | None:
    """The terms that the adapter was trained under, or None without a lineage; the weights must be its weights.

    Raises:
        InputInvalidError: DIGEST_DIFFERS or SETTINGS_UNSUPPORTED.
    """
    if not (folder / LINEAGE_FILE).is_file():
        return None
    lineage = _read_json(folder / LINEAGE_FILE)
    got = file_digest(folder / WEIGHTS_FILE)
    if lineage.get("digest", got) != got:
        raise InputInvalidError(Reason.DIGEST_DIFFERS, f"{WEIGHTS_FILE}: expected {lineage['digest']!s:.80}, got {got}")
    try:
        return _TERMS.validate_python(lineage.get("terms"))
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
        raise _unsupported(f"{LINEAGE_FILE}: expected terms, got wrong fields: {fields[:500]}") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise _unsupported(f"{path.name}: expected a JSON object, got {type(error).__name__}") from error
    if not isinstance(document, dict):
        raise _unsupported(f"{path.name}: expected a JSON object, got {type(document).__name__}")
    return document


def _unsupported(message: str) -> InputInvalidError:
    return InputInvalidError(Reason.SETTINGS_UNSUPPORTED, message)

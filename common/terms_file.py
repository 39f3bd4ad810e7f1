"""Terms of a run as a TOML file, on their own or over a preset. Writes none."""

from __future__ import annotations

import json
import tomllib
from copy import deepcopy
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from common.config import config_invalid, parse_seconds, problems_of, read_toml
from common.terms import STRATEGIES_WITH_PARAMETERS, Terms, check_terms

_PRESET_KEY = "preset"
_DURATIONS = ("train_deadline", "grace", "evaluate_deadline")
_TERMS = TypeAdapter(Terms)


def load_terms_toml(path: Path) -> Terms:
    """The terms in ``path``; with ``preset = "<name>"`` they are merged, table by table, over that preset.

    Raises:
        InputInvalidError: CONFIG_INVALID with every problem of shape, or TERMS_INVALID with every broken bound.
    """
    return terms_of_document(read_toml(path), path)


def terms_of_document(document: dict[str, Any], path: Path) -> Terms:
    """The terms in tables that were read from ``path``, and that stay as they are; raises as `load_terms_toml`."""
    problems: list[str] = []
    document = _over_preset(deepcopy(document), problems)
    _parse_durations(document, problems)
    _add_default_parameters(document)
    try:
        terms = _TERMS.validate_json(json.dumps(document, default=str), strict=True, extra="forbid")
    except ValidationError as error:
        raise config_invalid(path, [*problems, *problems_of(error)]) from None
    if problems:
        raise config_invalid(path, problems)
    return check_terms(terms)


def preset_names() -> list[str]:
    """The presets that are shipped."""
    return sorted(file.name.removesuffix(".toml") for file in _presets().iterdir() if file.name.endswith(".toml"))


def _presets() -> Traversable:
    return files("common") / "presets"


def _over_preset(document: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    name = document.pop(_PRESET_KEY, None)
    if name is None:
        return document
    if name not in preset_names():
        problems.append(f"{_PRESET_KEY}: expected one of {', '.join(preset_names())}, got {name!r}")
        return document
    with (_presets() / f"{name}.toml").open("rb") as file:
        return merged_tables(tomllib.load(file), document)


def merged_tables(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """``below`` with what ``above`` says instead, key by key in every table."""
    merged = dict(below)
    for key, value in above.items():
        both_tables = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = merged_tables(below[key], value) if both_tables else value
    return merged


def _add_default_parameters(document: dict[str, Any]) -> None:
    """A strategy that has parameters and is given none has their defaults."""
    aggregation = document.get("aggregation")
    if isinstance(aggregation, dict) and aggregation.get("strategy") in STRATEGIES_WITH_PARAMETERS:
        aggregation.setdefault(aggregation["strategy"], {})


def _parse_durations(document: dict[str, Any], problems: list[str]) -> None:
    """Replace each duration by its seconds; a wrong one by its default, so that the other problems are found too."""
    rounds = document.get("rounds")
    if not isinstance(rounds, dict):
        return
    for name in _DURATIONS:
        if name not in rounds:
            continue
        try:
            rounds[name] = parse_seconds(rounds[name])
        except ValueError as error:
            problems.append(f"rounds.{name}: {error}, got {rounds.pop(name)!r}")

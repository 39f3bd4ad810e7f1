"""Runs and rounds as JSON documents. The values are the domain's own; nothing here has a default of its own."""

from __future__ import annotations

from dataclasses import replace

from pydantic import TypeAdapter

from coordinator.domain.values import Round, Run

_RUN = TypeAdapter(Run)
_ROUND = TypeAdapter(Round)


def encode_run(run: Run) -> str:
    """The run without its rounds, which have rows of their own."""
    return _RUN.dump_json(replace(run, rounds=())).decode()


def decode_run(document: str, rounds: tuple[Round, ...]) -> Run:
    """The run, put together with its rounds."""
    return replace(_RUN.validate_json(document), rounds=rounds)


def encode_round(value: Round) -> str:
    """One round."""
    return _ROUND.dump_json(value).decode()


def decode_round(document: str) -> Round:
    """One round."""
    return _ROUND.validate_json(document)

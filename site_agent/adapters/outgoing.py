"""Describes a message that is about to leave, for the ledger: names of fields and tensors, sizes, digests; no value.

What a message belongs to is found by the assignment, or the adapter, that it names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from common.ids import AssignmentId, digest_of
from common.weights_io import WeightsReader
from site_agent.adapters.journal import FileJournal
from site_agent.domain.assignment import Assignment
from site_agent.domain.ledger import About, OutgoingMessage, TensorNorm

# Far more than any message of the protocol has.
_MAX_DEPTH = 8


class Attribution(Protocol):
    """Knows which run and round a message belongs to."""

    def of_assignment(self, assignment_id: AssignmentId) -> About:
        """What the assignment of this id belongs to."""

    def of_adapter(self, digest: str) -> About:
        """What the fetching of this adapter belongs to."""


class CommandAttribution:
    """Of a command that somebody typed: there is no assignment; it may be about a run."""

    def __init__(self, run: str = "") -> None:
        self._about = About(run=run)

    def of_assignment(self, assignment_id: AssignmentId) -> About:
        """See the protocol."""
        return About(assignment_id=assignment_id)

    def of_adapter(self, digest: str) -> About:
        """See the protocol."""
        return self._about


class JournalAttribution:
    """Of an agent: its journal knows the assignments."""

    def __init__(self, journal: FileJournal) -> None:
        self._journal = journal

    def of_assignment(self, assignment_id: AssignmentId) -> About:
        """See the protocol; of an assignment that could not be read nothing but its id is known."""
        entry = self._journal.find(assignment_id)
        return About(assignment_id=assignment_id) if entry is None else _about(entry.assignment)

    def of_adapter(self, digest: str) -> About:
        """See the protocol."""
        for entry in self._journal.open_entries():
            adapter = entry.assignment.adapter
            if adapter is not None and adapter.digest == digest:
                return _about(entry.assignment)
        return About()


def _about(assignment: Assignment) -> About:
    return About(
        run=assignment.terms.name, round_number=assignment.round_number, assignment_id=assignment.assignment_id
    )


def describe_message(
    method: str, message: Message, content: bytes, attribution: Attribution, tensors: tuple[TensorNorm, ...] = ()
) -> OutgoingMessage:
    """What the ledger says of ``message``, which protobuf writes as ``content``.

    Args:
        method: As ``/package.Service/Method``.
        message: The message, or of a stream its header.
        content: Its bytes.
        attribution: Knows what it belongs to.
        tensors: What is in the file that the stream brings.
    """
    header: Message = getattr(message, "header", message)
    return OutgoingMessage(
        rpc=method.rpartition("/")[2],
        size_bytes=len(content),
        digest=digest_of(content),
        fields=tuple(sorted(set(_fields_of(message)))),
        about=_what_it_is_about(header, attribution),
        file_digest=getattr(header, "digest", "") if tensors else "",
        file_bytes=getattr(header, "size_bytes", 0) if tensors else 0,
        tensors=tensors,
    )


def _what_it_is_about(message: Message, attribution: Attribution) -> About:
    named = {field.name: value for field, value in message.ListFields()}
    assignment_id = named.get("assignment_id") or named.get("current_assignment_id")
    if assignment_id:
        return attribution.of_assignment(AssignmentId(assignment_id))
    if "run" in named:
        return About(run=str(named["run"]))
    return attribution.of_adapter(str(named.get("digest", "")))


def _fields_of(message: Message, prefix: str = "", depth: int = 0) -> Iterator[str]:
    for field, value in message.ListFields():
        name = f"{prefix}{field.name}"
        parts = list(_messages_in(field, value)) if depth < _MAX_DEPTH else []
        if not parts:
            yield name
        for part in parts:
            below = list(_fields_of(part, f"{name}.", depth + 1))
            yield from below or [name]


def _messages_in(field: FieldDescriptor, value: object) -> Iterator[Message]:
    if field.message_type is not None:
        yield from [value] if isinstance(value, Message) else value  # type: ignore[misc]  # a repeated field


def norms_of(path: Path) -> tuple[TensorNorm, ...]:
    """The tensors of a safetensors file, each with its Frobenius norm in float64; one at a time is held.

    Raises:
        UpdateRefusedError: It is none.
    """
    with WeightsReader(path) as reader:
        return tuple(
            TensorNorm(name=slot.name, shape=slot.shape, norm=_finite(np.linalg.norm(_float64(reader, slot.name))))
            for slot in reader.layout.tensors
        )


def _float64(reader: WeightsReader, name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return reader.tensor(name).astype(np.float64).ravel()


def _finite(norm: np.floating) -> float | None:
    return float(norm) if math.isfinite(norm) else None

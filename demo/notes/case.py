"""What one patient's note may say, as facts in the words of one house. `patient` makes them, `compose` tells them.

A fact is what a template's group is about, with all its fields: a drug with amount, route and frequency, a test with
its value and range, a finding with its place. Slots take their entity types from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

# The slots that a fact may fill with its main entity, with that entity's type.
MAIN_SLOTS: Mapping[str, str] = {
    "condition": "problem",
    "symptom": "problem",
    "absent": "problem",
    "sign": "problem",
    "complication": "problem",
    "comorbidity": "problem",
    "other_condition": "problem",
    "familial": "problem",
    "negative": "problem",
    "drug": "drug",
    "longterm": "drug",
    "homedrug": "drug",
    "remedy": "drug",
    "lab": "test",
    "normal_lab": "test",
    "vital": "test",
    "study": "test",
    "workup": "test",
    "procedure": "treatment",
    "therapy": "treatment",
    "support": "treatment",
}


@dataclass(frozen=True, slots=True)
class Term:
    """What a slot is filled with: one of the wordings, and the entity type of it, if it is an entity."""

    wordings: tuple[str, ...]
    type: str | None = None


@dataclass(frozen=True, slots=True)
class Fact:
    """Terms by slot, the main one under ``slot``.

    Attributes:
        keys: Names in the tables of what it tells; a passage tells nothing twice.
    """

    slot: str
    terms: Mapping[str, Term]
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """The facts by their main slot, and the words that belong to the patient.

    A patient takes one drug for each comorbidity, always in the same regimen.
    """

    facts: Mapping[str, tuple[Fact, ...]]
    plain: Mapping[str, Term]

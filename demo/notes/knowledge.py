"""The medical tables as typed values: what goes with which condition. It knows no house, so no abbreviation."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable
from itertools import chain
from typing import Any

_TABLES = resources.files("demo.notes") / "tables"
_INTERVALS = frozenset({"weekly", "2wk", "3wk", "4wk", "8wk", "12wk", "6mo", "yearly"})
_URGENT_ROUTES = frozenset({"iv", "im", "neb"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Regimen:
    """One way to give a drug; route and frequency are codes that each house words its own way."""

    amount: str
    route: str
    frequency: str
    form: str

    @property
    def is_urgent(self) -> bool:
        """Whether a hospital gives it in the acute phase."""
        by_staff = self.route in _URGENT_ROUTES and self.frequency != "prn" and not self.is_spaced
        return by_staff or self.frequency in ("once", "cont")

    @property
    def is_spaced(self) -> bool:
        """Whether a week or more lies between two doses."""
        return self.frequency in _INTERVALS


@dataclass(frozen=True, slots=True, kw_only=True)
class Drug:
    """A drug, its usual regimens, adverse effects and lengths of a course in days."""

    name: str
    regimens: tuple[Regimen, ...]
    harms: tuple[str, ...]
    days: tuple[int, ...]

    @property
    def acute_regimens(self) -> tuple[Regimen, ...]:
        """What is given in the acute phase: the urgent regimens, where there are any."""
        urgent = tuple(regimen for regimen in self.regimens if regimen.is_urgent)
        return urgent or tuple(one for one in self.regimens if not one.is_spaced) or self.regimens

    @property
    def home_regimens(self) -> tuple[Regimen, ...]:
        """What is taken at home or at intervals in a clinic."""
        return tuple(regimen for regimen in self.regimens if not regimen.is_urgent)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A test's unit and ranges, as the decimals that a report prints; a side that cannot be abnormal is None."""

    unit: str
    low: tuple[str, str] | None
    normal: tuple[str, str]
    high: tuple[str, str] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A finding and where it is: ``tenderness``, ``over the``, ``left calf``; ``study`` is what shows it, if any."""

    name: str
    at: str
    place: str
    study: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """What goes with one condition. The lists hold names that the other tables explain.

    Attributes:
        settings: The initials of the houses that see it: ward, emergency, clinic.
        onset: The unit in which its symptoms' duration is told.
        symptoms: Each with what brings it on ("" for nothing in particular).
        labs: Each with "-", "=" or "+".
    """

    name: str
    settings: str
    specialty: str
    sexes: str
    ages: tuple[int, int]
    onset: str
    is_chronic: bool
    symptoms: tuple[tuple[str, str], ...]
    absent: tuple[str, ...]
    signs: tuple[Finding, ...]
    labs: tuple[tuple[str, str], ...]
    studies: tuple[Finding, ...]
    acute: tuple[str, ...]
    home: tuple[str, ...]
    procedures: tuple[str, ...]
    therapies: tuple[str, ...]
    workup: tuple[str, ...]
    complications: tuple[str, ...]

    @property
    def names(self) -> frozenset[str]:
        """Of all problems, drugs, tests and treatments that go with it, and its own."""
        paired = (first for first, _ in self.symptoms + self.labs)
        findings = (finding.name for finding in self.signs + self.studies)
        lists = (self.absent, self.acute, self.home, self.procedures, self.therapies, self.workup, self.complications)
        return frozenset(chain([self.name], paired, findings, *lists))


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """All tables; what the lists are for stands in ``general.toml``.

    Attributes:
        scales: By system of units ("us", "si") and test.
        alternatives: Drugs of which a patient takes one at a time.
    """

    conditions: tuple[Condition, ...]
    drugs: Mapping[str, Drug]
    scales: Mapping[str, Mapping[str, Scale]]
    graded: tuple[str, ...]
    familial: tuple[str, ...]
    over_the_counter: tuple[str, ...]
    negatives: tuple[str, ...]
    alternatives: tuple[tuple[str, ...], ...]
    acute_therapies: frozenset[str]
    bedside: tuple[str, ...]
    vitals: tuple[str, ...]
    routine_labs: tuple[str, ...]


@cache
def load_knowledge() -> Knowledge:
    """Read the tables that come with this package."""
    general = _read(_TABLES / "general.toml")
    labs = _read(_TABLES / "labs.toml")
    files = sorted((_TABLES / "conditions").iterdir(), key=lambda file: file.name)
    return Knowledge(
        conditions=tuple(
            _condition(name, file.name.removesuffix(".toml"), table)
            for file in files
            for name, table in _read(file).items()
        ),
        drugs={name: _drug(name, table) for name, table in _read(_TABLES / "drugs.toml").items()},
        scales={
            "us": {name: _scale(table["us"]) for name, table in labs.items()},
            "si": {name: _scale(table.get("si", table["us"])) for name, table in labs.items()},
        },
        graded=tuple(general["graded"]),
        familial=tuple(general["familial"]),
        over_the_counter=tuple(general["over_the_counter"]),
        negatives=tuple(general["negatives"]),
        alternatives=tuple(tuple(names) for names in general["alternatives"]),
        acute_therapies=frozenset(general["acute_therapies"]),
        bedside=tuple(general["bedside"]),
        vitals=tuple(general["vitals"]),
        routine_labs=tuple(general["routine_labs"]),
    )


def _read(file: Traversable) -> dict[str, Any]:
    return tomllib.loads(file.read_text(encoding="utf-8"))


def _condition(name: str, specialty: str, table: Mapping[str, Any]) -> Condition:
    first_age, last_age = table.get("ages", (28, 88))
    return Condition(
        name=name,
        settings=table["seen"],
        specialty=specialty,
        sexes=table.get("sex", "fm"),
        ages=(first_age, last_age),
        onset=table["onset"],
        is_chronic=table.get("chronic", False),
        symptoms=tuple(_pair(entry, " ~ ") for entry in table["symptoms"]),
        absent=tuple(table["absent"]),
        signs=tuple(_finding(entry) for entry in table["signs"]),
        labs=tuple((entry[:-2], entry[-1]) for entry in table["labs"]),
        studies=tuple(_finding(finding, study) for study, finding in (_pair(e, ": ") for e in table["studies"])),
        acute=tuple(table.get("acute", ())),
        home=tuple(table["home"]),
        procedures=tuple(table.get("procedures", ())),
        therapies=tuple(table.get("therapies", ())),
        workup=tuple(table.get("workup", ())),
        complications=tuple(table["complications"]),
    )


def _pair(entry: str, separator: str) -> tuple[str, str]:
    first, _, second = entry.partition(separator)
    return first, second


def _finding(entry: str, study: str = "") -> Finding:
    name, at, place = entry.split(" | ")
    return Finding(name=name, at=at, place=place, study=study)


def _drug(name: str, table: Mapping[str, Any]) -> Drug:
    return Drug(
        name=name,
        regimens=tuple(_regimen(entry) for entry in table["regimens"]),
        harms=tuple(table["harms"]),
        days=tuple(table.get("days", ())),
    )


def _regimen(entry: str) -> Regimen:
    amount, route, frequency, form = entry.rsplit(" ", 3)
    return Regimen(amount=amount.replace(" %", "%"), route=route, frequency=frequency, form=form)


def _scale(entry: str) -> Scale:
    unit, *limits = entry.split(" ")
    low, normal, high = ((limits[i], limits[i + 1]) for i in (0, 2, 4))
    return Scale(unit=unit, low=_side(low), normal=normal, high=_side(high))


def _side(limits: tuple[str, str]) -> tuple[str, str] | None:
    return None if limits[0] == "." else limits

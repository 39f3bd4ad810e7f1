"""A patient with a condition, and the case that follows: what is medically plausible. It writes no sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from demo.notes.case import MAIN_SLOTS, Case, Fact, Term
from demo.notes.dice import Dice
from demo.notes.house import House
from demo.notes.knowledge import Condition, Drug, Finding, Knowledge, Regimen, Scale

COMORBIDITIES = 4
_COUNTED_UNITS = frozenset({"units", "puff", "puffs", "drop", "drops", "sprays"})
_UNNAMED_FORMS = frozenset({"injection", "infusion", "solution"})
_SIDES = {"-": "low", "=": "normal", "+": "high"}


def make_case(condition: Condition, house: House, knowledge: Knowledge, held_out: frozenset[str], dice: Dice) -> Case:
    """A patient with this condition; no fact tells of a name that is ``held_out``."""
    patient = _Patient(condition, house, knowledge, dice)
    facts: dict[str, list[Fact]] = {slot: [] for slot in MAIN_SLOTS}
    for fact in patient.facts():
        if held_out.isdisjoint(fact.keys):
            facts[fact.slot].append(fact)
    return Case({slot: tuple(told) for slot, told in facts.items()}, patient.plain())


class _Patient:
    """The choices that make a case, and the facts that follow from them."""

    __slots__ = ("age", "comorbidities", "condition", "dice", "house", "knowledge", "others", "sex")

    def __init__(self, condition: Condition, house: House, knowledge: Knowledge, dice: Dice) -> None:
        self.condition, self.house, self.knowledge, self.dice = condition, house, knowledge, dice
        self.sex = dice.pick(condition.sexes)
        self.age = dice.between(*condition.ages)
        fitting = [one for one in knowledge.conditions if one.is_chronic and self._may_have(one)]
        chosen = dice.shuffled(fitting)
        self.comorbidities = [one for one in chosen if one.ages[0] <= self.age][:COMORBIDITIES]
        self.others = [one for one in chosen if one not in self.comorbidities]

    def plain(self) -> Mapping[str, Term]:
        female = self.sex == "f"
        words = {
            "age": (str(self.age),),
            "sex": self.house.words[self.sex],
            "pron": ("She" if female else "He",),
            "pron_lower": ("she" if female else "he",),
            "poss": ("her" if female else "his",),
            "himself": ("herself" if female else "himself",),
            "unit": self.house.words[self.condition.onset],
        }
        return {slot: Term(wordings) for slot, wordings in words.items()}

    def facts(self) -> Iterator[Fact]:
        condition = self.condition
        yield from (self._problem("symptom", name, trigger) for name, trigger in condition.symptoms)
        yield from (self._finding("sign", sign) for sign in condition.signs)
        yield from (self._finding("study", study) for study in condition.studies)
        yield from self._names()
        yield from self._labs()
        for name in condition.acute:
            yield from self._drugs("drug", name, condition.name)
        for name in condition.home:
            yield from self._drugs("longterm", name, condition.name)
        for comorbidity in self.comorbidities:
            regimens = list(self._drugs("homedrug", self.dice.pick(comorbidity.home), comorbidity.name))
            yield self.dice.pick(regimens)

    def _may_have(self, other: Condition) -> bool:
        """Not the condition itself under another name, and not what the other sex has."""
        mine, its = self.condition.name, other.name
        return self.sex in other.sexes and mine not in its and its not in mine and mine[-8:] != its[-8:]

    def _names(self) -> Iterator[Fact]:
        condition = self.condition
        lists: Mapping[str, Sequence[str]] = {
            "condition": (condition.name,),
            "absent": condition.absent,
            "complication": condition.complications,
            "comorbidity": [one.name for one in self.comorbidities],
            "other_condition": [one.name for one in self.others],
            "familial": self.knowledge.familial,
            "procedure": condition.procedures,
            "therapy": [name for name in condition.therapies if name not in self.knowledge.acute_therapies],
            "support": [name for name in condition.therapies if name in self.knowledge.acute_therapies],
            "remedy": self.knowledge.over_the_counter,
            "negative": self.knowledge.negatives,
            "workup": condition.workup,
        }
        for slot, names in lists.items():
            for name in names:
                yield Fact(slot, {slot: self._main(slot, name)}, (name,))

    def _main(self, slot: str, name: str) -> Term:
        return Term(self.house.say(name), MAIN_SLOTS[slot])

    def _grades(self, name: str) -> dict[str, Term]:
        if not any(part in name for part in self.knowledge.graded):
            return {}
        return {word: Term(self.house.words[word], word) for word in ("severity", "course")}

    def _problem(self, slot: str, name: str, trigger: str) -> Fact:
        terms = {slot: self._main(slot, name)} | self._grades(name)
        if trigger:
            terms["trigger"] = Term(self.house.say(trigger), "condition")
        return Fact(slot, terms, (name,))

    def _finding(self, slot: str, finding: Finding) -> Fact:
        terms = self._grades(finding.name)
        terms["at"] = Term((finding.at,))
        terms["loc"] = Term(self.house.say(finding.place), "bodyloc")
        problem = Term(self.house.say(finding.name), "problem")
        if not finding.study:
            return Fact(slot, terms | {slot: problem}, (finding.name,))
        return Fact(slot, terms | {slot: self._main(slot, finding.study), "finding": problem}, (finding.name,))

    def _labs(self) -> Iterator[Fact]:
        tested = dict(self.condition.labs)
        for name, side in self.condition.labs:
            slot = "vital" if name in self.knowledge.bedside else "normal_lab" if side == "=" else "lab"
            yield self._lab(slot, name, side)
        for slot, names in (("normal_lab", self.knowledge.routine_labs), ("vital", self.knowledge.vitals)):
            yield from (self._lab(slot, name, "=") for name in names if name not in tested)

    def _lab(self, slot: str, name: str, side: str) -> Fact:
        scale = self.knowledge.scales[self.house.units][name]
        words = self.house.words
        terms = {
            slot: self._main(slot, name),
            "value": Term((self._value(scale, side),), "labvalue"),
            "later": Term((self._value(scale, "="),), "labvalue"),
            "range": Term(tuple(form.format(*scale.normal) for form in words["range"]), "reference_range"),
            "direction": Term(words[_SIDES[side]]),
            "flag": Term(words[f"{_SIDES[side]}_flag"]),
        }
        return Fact(slot, terms, (name,))

    def _value(self, scale: Scale, side: str) -> str:
        limits = {"-": scale.low, "=": scale.normal, "+": scale.high}[side]
        if limits is None:
            raise ValueError(f"tables: {self.condition.name!r} asks for a side that a test does not have")
        number = _decimal_between(*limits, self.dice)
        if scale.unit == "%":
            return f"{number}%"
        if scale.unit == "-" or not self.house.shows_units:
            return number
        return f"{number}{'' if scale.unit.startswith('/') else ' '}{scale.unit}"

    def _drugs(self, slot: str, name: str, indication: str) -> Iterator[Fact]:
        drug = self.knowledge.drugs[name]
        keys = [name, *(f"instead of {rest[0]}" for rest in self.knowledge.alternatives if name in rest)]
        if slot == "homedrug":
            keys.append(indication)
        for regimen in drug.acute_regimens if slot == "drug" else drug.home_regimens:
            terms = {
                slot: self._main(slot, name),
                "indication": Term(self.house.say(indication), "problem"),
                "strength": _amount(regimen),
                "route": Term(self.house.words[regimen.route], "route"),
                "frequency": Term(self.house.words[regimen.frequency], "frequency"),
                "harm": Term(tuple(word for harm in drug.harms for word in self.house.say(harm)), "problem"),
            }
            yield Fact(slot, terms | self._form(regimen) | self._duration(drug, regimen), tuple(keys))

    def _form(self, regimen: Regimen) -> dict[str, Term]:
        if regimen.form in _UNNAMED_FORMS:
            return {}
        words = self.house.words
        terms = {"form": Term(words.get(regimen.form, (regimen.form,)), "form")}
        if f"{regimen.form}_dosage" in words:
            terms["dosage"] = Term(words[f"{regimen.form}_dosage"], "dosage")
        return terms

    def _duration(self, drug: Drug, regimen: Regimen) -> dict[str, Term]:
        if not drug.days or regimen.frequency in ("once", "cont", "prn"):
            return {}
        forms = self.house.words["course_days"]
        return {"duration": Term(tuple(form.format(days) for form in forms for days in drug.days), "duration")}


def _amount(regimen: Regimen) -> Term:
    """An amount of substance is a strength, a count ("2 puffs", "10 units") a dosage, as in the n2c2 2018 corpus."""
    counted = regimen.amount.rsplit(" ", 1)[-1] in _COUNTED_UNITS
    return Term((regimen.amount,), "dosage" if counted else "strength")


def _decimal_between(least: str, greatest: str, dice: Dice) -> str:
    """A decimal between two, with as many digits after the point as they have."""
    digits = len(least.partition(".")[2])
    scale = 10**digits
    low, high = (round(float(limit) * scale) for limit in (least, greatest))
    return f"{dice.between(low, high) / scale:.{digits}f}"

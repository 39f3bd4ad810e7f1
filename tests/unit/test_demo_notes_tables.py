import re
from collections.abc import Iterator
from itertools import pairwise

import pytest

from demo.notes.case import MAIN_SLOTS, Case
from demo.notes.compose import UnavailableError, compose
from demo.notes.dice import Dice
from demo.notes.house import HOUSE_SETTINGS, House, load_house
from demo.notes.knowledge import Condition, load_knowledge
from demo.notes.patient import make_case
from demo.notes.template import Template, slot_names

KNOWLEDGE = load_knowledge()
CONDITIONS = {condition.name: condition for condition in KNOWLEDGE.conditions}
# Draws of a case and its words before a template counts as one that no case can fill.
TRIES = 200


def seen_by(house: House) -> list[Condition]:
    return [condition for condition in KNOWLEDGE.conditions if house.setting in condition.settings]


def case_of(condition: Condition, house: House, seed: int = 0) -> Case:
    return make_case(condition, house, KNOWLEDGE, frozenset(), Dice(seed))


def names() -> Iterator[str]:
    for one in KNOWLEDGE.conditions:
        yield from one.names
        yield from (study.study for study in one.studies)
    yield from KNOWLEDGE.drugs
    yield from KNOWLEDGE.scales["us"]
    yield from (harm for drug in KNOWLEDGE.drugs.values() for harm in drug.harms)


def is_told(template: Template, house: House) -> bool:
    conditions = seen_by(house)
    for seed in range(TRIES):
        dice = Dice(seed)
        case = case_of(dice.pick(conditions), house, seed)
        try:
            compose(template, case, frozenset(), dice)
        except UnavailableError:
            continue
        return True
    return False


def test_the_tables_are_large() -> None:
    assert len(CONDITIONS) == len(KNOWLEDGE.conditions) >= 120
    assert len(KNOWLEDGE.drugs) >= 200
    assert len(set(names())) >= 1500


@pytest.mark.parametrize("name", CONDITIONS)
def test_the_drugs_and_tests_of_a_condition_are_in_the_tables(name: str) -> None:
    condition = CONDITIONS[name]
    assert set(condition.acute + condition.home) <= KNOWLEDGE.drugs.keys()
    assert {test for test, _ in condition.labs} <= KNOWLEDGE.scales["us"].keys()


@pytest.mark.parametrize("name", CONDITIONS)
def test_what_a_patient_with_a_condition_has_is_not_what_they_do_not_have(name: str) -> None:
    condition = CONDITIONS[name]
    present = {symptom for symptom, _ in condition.symptoms} | {one.name for one in condition.signs + condition.studies}
    assert present.isdisjoint(condition.absent)
    assert present.isdisjoint(condition.complications)


def test_every_drug_that_is_taken_at_home_has_a_regimen_for_it() -> None:
    taken = {drug for condition in KNOWLEDGE.conditions for drug in condition.home}
    assert [drug for drug in sorted(taken) if not KNOWLEDGE.drugs[drug].home_regimens] == []


def test_the_lists_of_the_general_table_name_what_the_other_tables_have() -> None:
    therapies = {therapy for condition in KNOWLEDGE.conditions for therapy in condition.therapies}
    drugs = {drug for group in KNOWLEDGE.alternatives for drug in group} | set(KNOWLEDGE.over_the_counter)
    assert therapies >= KNOWLEDGE.acute_therapies
    assert drugs <= KNOWLEDGE.drugs.keys()
    assert {*KNOWLEDGE.vitals, *KNOWLEDGE.routine_labs, *KNOWLEDGE.bedside} <= KNOWLEDGE.scales["us"].keys()


@pytest.mark.parametrize("units", ["us", "si"])
def test_low_normal_and_high_values_of_a_test_do_not_meet(units: str) -> None:
    for name, scale in KNOWLEDGE.scales[units].items():
        sides = [side for side in (scale.low, scale.normal, scale.high) if side is not None]
        limits = [float(limit) for side in sides for limit in side]
        assert all(left <= right for left, right in pairwise(limits)), name
        assert all(float(left[1]) < float(right[0]) for left, right in pairwise(sides)), name


@pytest.mark.parametrize("name", HOUSE_SETTINGS)
def test_a_house_words_every_case_that_it_sees(name: str) -> None:
    house = load_house(name)
    for condition in seen_by(house):
        assert set(case_of(condition, house).facts) == set(MAIN_SLOTS)


@pytest.mark.parametrize("name", HOUSE_SETTINGS)
def test_a_value_lies_on_the_side_that_the_condition_asks_for(name: str) -> None:
    house = load_house(name)
    for condition in seen_by(house):
        sides = dict(condition.labs)
        for fact in case_of(condition, house).facts["lab"]:
            (test,) = fact.keys
            scale = KNOWLEDGE.scales[house.units][test]
            limits = {"-": scale.low, "+": scale.high}[sides[test]]
            match = re.match(r"[\d.]+", fact.terms["value"].wordings[0])
            assert match is not None
            assert limits is not None
            assert float(limits[0]) <= float(match[0]) <= float(limits[1])


@pytest.mark.parametrize("name", HOUSE_SETTINGS)
def test_a_house_only_rewords_what_the_tables_have(name: str) -> None:
    assert load_house(name).lexicon.keys() - set(names()) == set()


def test_a_rewrite_reaches_into_words_that_the_lexicon_does_not_have() -> None:
    assert load_house("clinic").say("hypokalemia") == ("hypokalaemia",)
    assert load_house("emergency").say("left calf") == ("L calf",)


@pytest.mark.parametrize("name", HOUSE_SETTINGS)
def test_every_template_of_a_house_is_told_by_some_case(name: str) -> None:
    house = load_house(name)
    for title, section in house.sections.items():
        untold = [place for place, template in enumerate(section.templates, 1) if not is_told(template, house)]
        assert untold == [], title


@pytest.mark.parametrize("name", HOUSE_SETTINGS)
def test_every_section_of_a_house_is_written_in_some_passage(name: str) -> None:
    house = load_house(name)
    assert {use.section for passage in house.passages for use in passage} == set(house.sections)


def test_the_houses_have_three_hundred_templates_that_all_ask_for_something_different() -> None:
    templates = [
        one for name in HOUSE_SETTINGS for section in load_house(name).sections.values() for one in section.templates
    ]
    assert len(set(templates)) == len(templates) >= 295
    assert sum(not list(slot_names(template)) for template in templates) <= 3


def test_a_patient_takes_one_drug_of_those_that_exclude_each_other() -> None:
    house = load_house("clinic")
    template = load_house("clinic").sections["medication"].templates[1]
    for seed in range(TRIES):
        dice = Dice(seed)
        try:
            sentence = compose(template, case_of(dice.pick(seen_by(house)), house, seed), frozenset(), dice)
        except UnavailableError:
            continue
        for group in KNOWLEDGE.alternatives:
            wordings = {wording for drug in group for wording in house.say(drug)}
            told = [sentence.text[one.start : one.end] for one in sentence.mentions]
            assert sum(words in wordings for words in told) <= 1


def test_a_man_is_not_given_what_women_have() -> None:
    house = load_house("clinic")
    for condition in seen_by(house):
        if condition.sexes == "m":
            told = case_of(condition, house).facts["comorbidity"] + case_of(condition, house).facts["other_condition"]
            assert all("m" in CONDITIONS[fact.keys[0]].sexes for fact in told)


def test_a_name_that_is_held_out_is_in_no_fact() -> None:
    house, condition = load_house("discharge"), CONDITIONS["acute ischemic stroke"]
    held_out = frozenset({"slurred speech", "aspirin", "glucose"})
    case = make_case(condition, house, KNOWLEDGE, held_out, Dice(0))
    told = {key for facts in case.facts.values() for fact in facts for key in fact.keys}
    assert told.isdisjoint(held_out)
    assert {"facial droop", "alteplase"} <= told

import pytest

from demo.notes.case import Case, Fact, Term
from demo.notes.compose import Sentence, UnavailableError, compose
from demo.notes.dice import Dice
from demo.notes.template import Group, Literal, Number, Slot, parse_template

DICE = Dice(0)


def problem(slot: str, name: str, **fields: Term) -> Fact:
    return Fact(slot, {slot: Term((name,), "problem"), **fields}, (name,))


def drug(name: str, strength: str, harm: str) -> Fact:
    terms = {"drug": Term((name,), "drug"), "strength": Term((strength,), "strength"), "harm": Term((harm,), "problem")}
    return Fact("drug", terms, (name,))


CASE = Case(
    {
        "condition": (problem("condition", "asthma"),),
        "symptom": (problem("symptom", "cough", severity=Term(("mild",), "severity")), problem("symptom", "fever")),
        "drug": (drug("albuterol", "2.5 mg", "tremor"),),
        "absent": (problem("absent", "rash"), problem("absent", "rigors")),
    },
    {"age": Term(("82",)), "sex": Term(("woman",))},
)


def tell(source: str, told: frozenset[str] = frozenset()) -> Sentence:
    return compose(parse_template(source, {}), CASE, told, DICE)


def entities(sentence: Sentence) -> list[tuple[str, str]]:
    return [(sentence.text[mention.start : mention.end], mention.type) for mention in sentence.mentions]


def relations(sentence: Sentence) -> set[tuple[str, str, str]]:
    names = [words for words, _ in entities(sentence)]
    return {(names[link.head], link.type, names[link.tail]) for link in sentence.links}


def test_a_slot_is_an_entity_where_its_words_were_put() -> None:
    sentence = tell("Given {drug} for {condition}.")
    assert sentence.text == "Given albuterol for asthma."
    assert entities(sentence) == [("albuterol", "drug"), ("asthma", "problem")]


def test_words_of_the_patient_are_no_entity() -> None:
    sentence = tell("This {age}-year-old {sex} has {condition}.")
    assert (sentence.text, entities(sentence)) == ("This 82-year-old woman has asthma.", [("asthma", "problem")])


def test_a_label_makes_an_entity_of_the_words_it_encloses() -> None:
    assert entities(tell("There was <negation:no sign of> it <temporal:for {3-3} days>.")) == [
        ("no sign of", "negation"),
        ("for 3 days", "temporal"),
    ]


def test_a_group_relates_each_of_its_main_entities_to_its_modifiers() -> None:
    sentence = tell("[<negation:No> {absent} or {absent}], but {condition}.")
    assert relations(sentence) == {("rash", "hasAttr", "No"), ("rigors", "hasAttr", "No")}


def test_a_group_relates_only_pairs_that_the_schema_allows() -> None:
    assert relations(tell("[{drug} {strength} for {condition}]")) == {("albuterol", "hasAttr", "2.5 mg")}


def test_a_group_takes_a_fact_that_has_all_its_fields() -> None:
    assert {tell("[{severity} {symptom}]").text for _ in range(20)} == {"mild cough"}


def test_fields_outside_of_a_group_come_from_the_last_fact() -> None:
    assert tell("[{drug}] was given at {strength}.").text == "albuterol was given at 2.5 mg."


@pytest.mark.parametrize(
    "source", ["{drug~treats:condition} for {condition}", "{condition} needs {drug~treats:condition}"]
)
def test_a_drug_is_the_head_of_its_relation_wherever_it_stands(source: str) -> None:
    assert relations(tell(source)) == {("albuterol", "treats", "asthma")}


def test_a_field_is_related_to_the_entity_of_its_own_fact() -> None:
    assert relations(tell("[{harm~adverse_effect:drug} after {drug}]")) == {("albuterol", "adverse_effect", "tremor")}


def test_what_a_passage_has_told_is_not_told_again() -> None:
    assert {tell("{symptom}", frozenset({"cough"})).text for _ in range(20)} == {"fever"}
    assert tell("{symptom} and {symptom}").keys == {"cough", "fever"}


def test_a_template_for_which_the_case_has_nothing_left_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match="slot 'absent': expected a fact"):
        tell("{absent}, {absent} and {absent}")


def test_a_field_without_a_fact_is_unavailable() -> None:
    with pytest.raises(UnavailableError, match="slot 'harm': expected a fact before it"):
        tell("{harm} after {drug}")


@pytest.mark.parametrize(
    ("words", "article"),
    [("asthma", "an"), ("fever", "a"), ("ECG", "an"), ("MRI", "an"), ("CT", "a"), ("urine test", "a"), ("82", "an")],
)
def test_an_article_fits_the_word_after_it(words: str, article: str) -> None:
    case = Case({"condition": (problem("condition", words),)}, {})
    sentence = compose(parse_template("with a {condition}.", {}), case, frozenset(), DICE)
    assert (sentence.text, entities(sentence)) == (f"with {article} {words}.", [(words, "problem")])


def test_a_template_is_parsed_into_its_parts() -> None:
    assert parse_template(r"\[{2-6} [{drug}]", {}) == (
        Literal("["),
        Number(2, 6),
        Literal(" "),
        Group((Slot("drug"),)),
    )


def test_a_phrase_stands_for_its_template() -> None:
    phrases = {"who": parse_template("the {sex}", {})}
    assert parse_template("{who}!", phrases) == (Literal("the "), Slot("sex"), Literal("!"))


@pytest.mark.parametrize("source", ["(a", "[a", "<negation:a", "a)", "a]", "a>", "{drug", "a|b", "{Drug}", "<a", "a\\"])
def test_a_malformed_template_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match="template: expected"):
        parse_template(source, {})

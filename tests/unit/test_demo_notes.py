import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from itertools import combinations, pairwise
from pathlib import Path

import pytest

from common.label_schema import ENTITY_TYPES, MAIN_TYPES, is_allowed_relation
from demo.notes import __main__ as command
from demo.notes.generate import Record, Split, generate_site, house_of
from demo.notes.note import Draft, Note
from demo.notes.write import DEFAULT_SIZES, default_site_names, record_line, write_corpus
from site_agent.trainer.extraction.passage_records import parse_record
from site_agent.trainer.extraction.passages import Entity, Passage
from site_agent.trainer.extraction.sentences import split_sentences

SITES = 6
SEED = 7
SMALL = {Split.TRAIN: 4, Split.DEV: 2, Split.TEST: 2}
# Of three sites' files with these sizes and this seed, in the order of their paths. It changes when the notes do.
SMALL_SHA256 = "ee669dcd2d983799ab68e9e813c73ec22b9d0178bb173f68a57dd2e7a513bfd1"


@cache
def site(index: int) -> dict[Split, tuple[Record, ...]]:
    return generate_site(index, seed=SEED, passages=DEFAULT_SIZES)


def records(index: int) -> list[Record]:
    return [record for split in Split for record in site(index)[split]]


def passages(index: int) -> list[Passage]:
    return [record.passage for record in records(index)]


def texts(index: int) -> str:
    return "\n".join(passage.text for passage in passages(index))


def words(passage: Passage, entity: Entity) -> str:
    return passage.text[entity.start : entity.end]


def sentence_words(index: int) -> list[int]:
    spans = ((passage, span) for passage in passages(index) for span in split_sentences(passage.text))
    return [len(passage.text[span.start : span.end].split()) for passage, span in spans]


def related(index: int, relation: str) -> Iterator[tuple[str, str]]:
    for passage in passages(index):
        by_id = {entity.id: words(passage, entity) for entity in passage.entities}
        yield from ((by_id[one.head], by_id[one.tail]) for one in passage.relations if one.type == relation)


def main_entities(index: int, split: Split) -> list[tuple[str, str]]:
    return [
        (entity.type, words(record.passage, entity).lower())
        for record in site(index)[split]
        for entity in record.passage.entities
        if entity.type in MAIN_TYPES
    ]


def digest(folder: Path) -> str:
    return hashlib.sha256(b"".join(file.read_bytes() for file in sorted(folder.rglob("*.jsonl")))).hexdigest()


@pytest.mark.parametrize("index", range(SITES))
def test_the_site_agent_reads_every_line_as_the_passage_it_was_made_from(index: int) -> None:
    assert [parse_record(record_line(record).encode()) for record in records(index)] == passages(index)


def test_a_line_has_the_fields_of_the_corpora_in_their_order() -> None:
    line = json.loads(record_line(site(0)[Split.TEST][0]))
    assert list(line) == ["id", "text", "entities", "relations", "source", "split", "meta"]
    assert list(line["entities"][0]) == ["id", "type", "start", "end", "text"]
    assert (line["source"], line["split"], list(line["meta"])) == ("synthetic discharge summary", "test", ["doc"])


@pytest.mark.parametrize("index", range(SITES))
def test_entities_are_words_in_order_of_place_and_none_overlaps_another(index: int) -> None:
    for passage in passages(index):
        assert all(left.end < right.start for left, right in pairwise(passage.entities))
        assert all(words(passage, entity) == words(passage, entity).strip() != "" for entity in passage.entities)


@pytest.mark.parametrize("index", range(SITES))
def test_a_passage_has_at_most_126_words_and_its_sentences_8_to_30(index: int) -> None:
    assert max(len(passage.text.split()) for passage in passages(index)) <= 126
    assert 8 <= min(sentence_words(index)) <= max(sentence_words(index)) <= 30


@pytest.mark.parametrize("index", range(SITES))
def test_no_entity_is_cut_by_the_sentence_splitter(index: int) -> None:
    for passage in passages(index):
        spans = split_sentences(passage.text)
        assert all(any(s.start <= e.start and e.end <= s.end for s in spans) for e in passage.entities)


@pytest.mark.parametrize("index", range(SITES))
def test_relations_are_of_allowed_pairs_and_none_is_told_twice(index: int) -> None:
    for passage in passages(index):
        types = {entity.id: entity.type for entity in passage.entities}
        assert all(is_allowed_relation(one.type, types[one.head], types[one.tail]) for one in passage.relations)
        assert len(set(passage.relations)) == len(passage.relations)


@pytest.mark.parametrize("index", range(SITES))
def test_the_splits_share_no_document_no_text_and_no_sentence(index: int) -> None:
    def parts(split: Split) -> tuple[set[str], set[str], set[str]]:
        told = [record.passage for record in site(index)[split]]
        sentences = {p.text[s.start : s.end] for p in told for s in split_sentences(p.text)}
        return {passage.document for passage in told}, {passage.text for passage in told}, sentences

    for left, right in combinations(Split, 2):
        assert all(ours.isdisjoint(theirs) for ours, theirs in zip(parts(left), parts(right), strict=True))


@pytest.mark.parametrize("index", range(SITES))
def test_ids_and_texts_occur_once_at_a_site(index: int) -> None:
    assert len({passage.id for passage in passages(index)}) == len(passages(index))
    assert len({passage.text for passage in passages(index)}) == len(passages(index))


def test_a_split_has_exactly_as_many_passages_as_were_asked_for() -> None:
    made = generate_site(4, seed=1, passages={Split.TRAIN: 7, Split.TEST: 1})
    assert {split: len(told) for split, told in made.items()} == {Split.TRAIN: 7, Split.DEV: 0, Split.TEST: 1}


@pytest.mark.parametrize("index", range(SITES))
def test_between_15_and_70_per_cent_of_test_entities_do_not_occur_in_the_train_notes(
    index: int, record_property: Callable[[str, object], None]
) -> None:
    known = set(main_entities(index, Split.TRAIN))
    tested = main_entities(index, Split.TEST)
    share = sum(entity not in known for entity in tested) / len(tested)
    record_property("unseen_share", round(share, 2))
    assert 0.15 <= share <= 0.70


@pytest.mark.parametrize("index", range(3))
def test_other_sites_of_a_federation_know_some_of_the_entities_that_a_site_has_not_seen(index: int) -> None:
    unseen = set(main_entities(index, Split.TEST)) - set(main_entities(index, Split.TRAIN))
    others = {entity for other in range(SITES) if other != index for entity in main_entities(other, Split.TRAIN)}
    assert len(unseen & others) > len(unseen) / 4


def test_every_entity_type_of_the_schema_occurs() -> None:
    types = {entity.type for index in range(3) for passage in passages(index) for entity in passage.entities}
    assert types == set(ENTITY_TYPES)


@pytest.mark.parametrize("index", range(SITES))
def test_every_site_annotates_the_four_main_types_and_all_three_relations(index: int) -> None:
    types = Counter(entity.type for passage in passages(index) for entity in passage.entities)
    relations = Counter(relation.type for passage in passages(index) for relation in passage.relations)
    assert min(types[main] for main in MAIN_TYPES) > 40
    assert min(relations[name] for name in ("hasAttr", "treats", "adverse_effect")) > 10


def test_the_three_styles_take_turns() -> None:
    assert [house_of(index).name for index in range(SITES)] == ["discharge", "emergency", "clinic"] * 2


def test_discharge_summaries_are_long_sentences_under_headings_in_capitals() -> None:
    lines = texts(0).splitlines()
    assert all(re.match(r"[A-Z][A-Z ]+: [A-Z]", line) for line in lines)
    assert sum(sentence_words(0)) / len(sentence_words(0)) > 1.2 * max(
        sum(sentence_words(index)) / len(sentence_words(index)) for index in (1, 2)
    )


def test_emergency_notes_are_full_of_slashed_abbreviations_and_give_results_without_units() -> None:
    slashed = [len(re.findall(r"\b[a-z]/[a-z]+\b|\bw/", texts(index))) for index in range(3)]
    assert slashed[1] > 10 * max(1, slashed[0], slashed[2])
    assert not re.search(r"\d (mg/dL|mmol/L|U/L|bpm)", texts(1))


def test_clinic_letters_are_labelled_lines_with_reference_ranges_and_british_shorthand() -> None:
    assert all(re.match(r"[A-Z][A-Za-z/ ]*( 1)? - ", line) for line in texts(2).splitlines())
    assert re.search(r"\b\d/(7|52|12)\b", texts(2))
    assert not re.search(r"\b\d/(7|52|12)\b", texts(0) + texts(1))
    ranges = [sum(e.type == "reference_range" for p in passages(index) for e in p.entities) for index in range(3)]
    assert ranges[2] > 2 * max(ranges[0], ranges[1])


def test_the_same_letters_mean_different_things_as_the_house_has_it() -> None:
    assert "MS" in house_of(1).say("morphine")
    assert "MS" in house_of(2).say("relapsing multiple sclerosis")
    types = {entity.type for p in passages(1) + passages(4) for entity in p.entities if words(p, entity) == "K"}
    assert types == {"drug", "test"}


def test_a_negated_problem_is_a_problem_with_a_negation() -> None:
    for index, negations in enumerate((("denied", "no evidence of"), ("denies", "w/o"), ("denies", "nil"))):
        tails = {tail for _, tail in related(index, "hasAttr")}
        assert tails.issuperset(negations)


def test_a_drug_relates_to_what_it_treats_and_to_what_it_did() -> None:
    assert ("Synthroid", "hypothyroidism") in set(related(1, "treats")) | set(related(4, "treats"))
    assert all(head != tail for index in range(3) for head, tail in related(index, "adverse_effect"))


def test_nobody_is_called_by_name() -> None:
    assert not re.search(r"\b(Dr|Mr|Mrs|Ms|Prof)\b", "".join(texts(index) for index in range(SITES)))


def test_equal_seeds_give_equal_bytes_and_other_seeds_other_bytes(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        write_corpus(tmp_path / name, default_site_names(3), seed, SMALL)
    assert digest(tmp_path / "one") == digest(tmp_path / "two") != digest(tmp_path / "three")


def test_a_seed_gives_the_same_bytes_on_every_machine(tmp_path: Path) -> None:
    write_corpus(tmp_path, default_site_names(3), SEED, SMALL)
    assert digest(tmp_path) == SMALL_SHA256


def test_more_dev_passages_leave_the_train_notes_as_they_are() -> None:
    more = generate_site(0, seed=SEED, passages={**SMALL, Split.DEV: 9})
    assert more[Split.TRAIN] == generate_site(0, seed=SEED, passages=SMALL)[Split.TRAIN]


def test_two_sites_of_one_style_have_different_notes_and_a_different_mix_of_cases() -> None:
    assert {passage.text for passage in passages(0)}.isdisjoint(passage.text for passage in passages(3))
    common = [
        {name for name, _ in Counter(words(p, e).lower() for p in passages(index) for e in p.entities).most_common(99)}
        for index in (0, 3)
    ]
    assert len(common[0] & common[1]) < 75


def test_a_corpus_has_three_files_for_each_named_site(tmp_path: Path) -> None:
    write_corpus(tmp_path, ("north", "south"), 0, SMALL)
    found = {
        file.relative_to(tmp_path).as_posix(): len(file.read_bytes().splitlines()) for file in tmp_path.rglob("*.*")
    }
    assert found == {f"{name}/{split}.jsonl": SMALL[split] for name in ("north", "south") for split in Split}


def test_sites_beyond_the_third_are_named_by_number() -> None:
    assert default_site_names(2) == ("general-hospital", "city-emergency")
    assert default_site_names(5) == ("general-hospital", "city-emergency", "lakeside-clinic", "site-4", "site-5")


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="seed: expected 0 to"):
        generate_site(0, seed=-1, passages=SMALL)


def test_a_site_that_has_nothing_new_to_write_says_how_far_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Note, "passage", lambda note, uses: Draft(()))
    with pytest.raises(ValueError, match="train: expected 4 different passages, got 0"):
        generate_site(0, seed=0, passages=SMALL)


def test_the_command_writes_what_its_arguments_ask_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = [f"--{split}={count}" for split, count in SMALL.items()]
    monkeypatch.setattr("sys.argv", ["demo.notes", f"--out={tmp_path}", "--sites=3", f"--seed={SEED}", *sizes])
    command.main()
    assert digest(tmp_path) == SMALL_SHA256
    assert "8 passages for each of general-hospital, city-emergency, lakeside-clinic" in capsys.readouterr().out

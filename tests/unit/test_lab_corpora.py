"""What is cut from corpora: how much, which documents, which labels; and that equal choices give equal files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import InputInvalidError, Reason
from common.task_terms import TaskTerms
from common.terms import Terms
from demo.notes.generate import Split
from demo.notes.write import write_corpus
from lab.corpora import Corpora, NoteFile, shared_passages, texts_of
from lab.experiment import Site
from site_agent.trainer.choices import thinned
from site_agent.trainer.extraction.examples import training_examples
from site_agent.trainer.extraction.passage_files import read_passages
from site_agent.trainer.extraction.passages import Passage
from site_agent.trainer.extraction.relations import gold_head_examples, roles_to_ask
from site_agent.trainer.extraction.set_digest import text_digests
from tests.fakes.coordinator_values import make_terms

SITE = Site(name="north", corpus="north", sentences=20)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpora")
    write_corpus(folder, ["north"], 7, {Split.TRAIN: 60, Split.DEV: 10, Split.TEST: 10})
    return folder


@pytest.fixture
def corpora(root: Path, tmp_path: Path) -> Corpora:
    return Corpora(root=root, cache=tmp_path / "cache")


def passages_of(file: NoteFile) -> tuple[Passage, ...]:
    return read_passages([file.path])


def test_a_site_gets_as_many_sentences_as_it_shall_have_and_no_passage_more(corpora: Corpora) -> None:
    held = corpora.train(SITE, seed=1)

    longest = max(corpora.train(SITE.model_copy(update={"sentences": n}), seed=1).sentences - n for n in range(1, 20))
    assert 20 <= held.sentences <= 20 + longest


def test_the_same_choice_is_the_same_file_and_another_seed_another(corpora: Corpora) -> None:
    assert corpora.train(SITE, seed=1) == corpora.train(SITE, seed=1)
    assert corpora.train(SITE, seed=1).digest != corpora.train(SITE, seed=2).digest


def test_what_was_cut_is_for_its_owner_alone(corpora: Corpora) -> None:
    assert corpora.train(SITE, seed=1).path.stat().st_mode & 0o077 == 0


def test_test_and_validation_sets_share_no_passage_with_each_other(corpora: Corpora) -> None:
    validation, test = corpora.validation("north", 6), corpora.test("north", 6)

    assert shared_passages([validation], [test]) == 0
    assert shared_passages([validation, test], [test]) == len(passages_of(test))


def test_a_text_that_is_held_out_is_trained_by_nobody_however_it_is_set_and_another_passage_comes_instead(
    corpora: Corpora,
) -> None:
    before = corpora.train(SITE, seed=1)
    first, second, *_ = passages_of(before)
    out = text_digests([replace(first, text=first.text.upper().replace(" ", "  "))])

    after = corpora.train(SITE, seed=1, held_out=out)

    texts = [passage.text for passage in passages_of(after)]
    assert first.text not in texts and second.text in texts
    assert after.sentences >= 20
    assert (before.left_out, after.left_out) == (0, 1)


def test_what_is_held_out_elsewhere_changes_nothing(corpora: Corpora) -> None:
    before = corpora.train(SITE, seed=1)

    assert corpora.train(SITE, seed=1, held_out=texts_of([corpora.test("north", 6)])) == before


def asked(task: TaskTerms, max_empty_share: float = 0.0) -> Terms:
    made = make_terms()
    return replace(made, task=task, training=replace(made.training, max_empty_share=max_empty_share))


EFFECTS = TaskTerms(entity_types=("drug",), relation_types=("adverse_effect",), relations_only=True)


def test_a_new_site_has_as_many_heads_as_it_shall_have_where_relations_are_asked_for(corpora: Corpora) -> None:
    sentences = passages_of(corpora.few("north", 10, seed=1, asked=asked(TaskTerms())))
    passages = passages_of(corpora.few("north", 10, seed=1, asked=asked(EFFECTS)))

    assert len(heads(passages)) >= 10 > len(heads(sentences))
    assert passages[: len(sentences)] == sentences  # and more of them


@pytest.mark.parametrize("share", [0.2, 0.5])
def test_of_heads_without_tails_no_more_count_for_a_new_site_than_are_trained(corpora: Corpora, share: float) -> None:
    def trained(passages: tuple[Passage, ...]) -> int:
        return len(thinned(heads(passages), lambda is_full: (0, not is_full), share, seed=1))

    passages = passages_of(corpora.few("north", 10, seed=1, asked=asked(EFFECTS, share)))

    assert trained(passages) >= 10 > trained(passages[:-1])
    assert len(passages) > len(passages_of(corpora.few("north", 10, seed=1, asked=asked(EFFECTS))))


def test_of_sentences_with_nothing_to_find_no_more_count_either(corpora: Corpora) -> None:
    drugs = TaskTerms(entity_types=("drug",))

    def full(passages: tuple[Passage, ...]) -> int:
        examples = [one for passage in passages for one in training_examples(passage)]
        return sum(any(mention.type == "drug" for mention in one.entities) for one in examples)

    some, fewer = (passages_of(corpora.few("north", 12, 1, asked(drugs, share))) for share in (0.0, 0.25))

    assert full(fewer) >= 9 > full(fewer[:-1])  # nine full ones, and three empty
    assert len(fewer) > len(some)


def test_fewer_heads_than_a_new_site_shall_have_are_refused(corpora: Corpora) -> None:
    none = TaskTerms(entity_types=("problem",), relation_types=("treats",), relations_only=True)

    with pytest.raises(InputInvalidError, match="expected at least 10 heads of relations to train, got 0"):
        corpora.few("north", 10, seed=1, asked=asked(none))


def test_a_test_set_has_a_passage_of_every_document_before_it_has_a_second_one(tmp_path: Path) -> None:
    lines = [
        {"id": f"p{document}-{number}", "text": f"Passage {number} of {document}.", "meta": {"doc": f"d{document}"}}
        for document in range(4)
        for number in range(5 - document)
    ]
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "test.jsonl").write_text("".join(f"{json.dumps({**one, **EMPTY})}\n" for one in lines))
    corpora = Corpora(root=tmp_path, cache=tmp_path / "cache")

    for sentences, most in ((3, 1), (4, 1), (7, 2), (10, 3)):
        documents = [passage.document for passage in passages_of(corpora.test("c", sentences))]
        counts = {each: documents.count(each) for each in documents}
        assert len(documents) == sentences and max(counts.values()) == most


EMPTY: dict[str, list[object]] = {"entities": [], "relations": []}


def heads(passages: tuple[Passage, ...]) -> list[bool]:
    """Of each head whether it has a tail."""
    roles = roles_to_ask(passages, EFFECTS)
    return [bool(one.entities) for passage in passages for one in gold_head_examples(passage, roles)]


def test_parts_of_a_corpus_share_no_document_and_leave_none_out(corpora: Corpora) -> None:
    parts = [SITE.model_copy(update={"part": (number, 3), "sentences": 1}) for number in (1, 2, 3)]
    all_of_them = []
    for part in parts:
        whole = corpora.train(part.model_copy(update={"sentences": most_of(corpora, part)}), seed=1)
        all_of_them.append({passage.document for passage in passages_of(whole)})

    assert not (all_of_them[0] & all_of_them[1] or all_of_them[1] & all_of_them[2] or all_of_them[0] & all_of_them[2])
    everything = read_passages([corpora.root / "north" / "train.jsonl"])
    assert set.union(*all_of_them) == {passage.document for passage in everything}


def most_of(corpora: Corpora, site: Site) -> int:
    """How many sentences a site could have, as the refusal of more says."""
    with pytest.raises(InputInvalidError) as refused:
        corpora.train(site.model_copy(update={"sentences": 100_000}), seed=1)
    return int(refused.value.message.split("got ")[1])


def test_more_sentences_than_there_are_is_refused(corpora: Corpora) -> None:
    with pytest.raises(InputInvalidError, match="expected at least 100000 sentences, got") as refused:
        corpora.train(SITE.model_copy(update={"sentences": 100_000}), seed=1)

    assert refused.value.reason is Reason.NOTES_TOO_FEW


def test_about_that_share_of_the_labels_is_wrong_and_nothing_else_changes(corpora: Corpora) -> None:
    large = SITE.model_copy(update={"sentences": 100})
    right = passages_of(corpora.train(large, seed=1))
    wrong = passages_of(corpora.train(large.model_copy(update={"wrong_labels": 0.3}), seed=1))

    pairs = [pair for two in zip(right, wrong, strict=True) for pair in zip(*(p.entities for p in two), strict=True)]
    changed = sum(before.type != after.type for before, after in pairs)
    assert 0.2 < changed / len(pairs) < 0.4
    assert [passage.text for passage in right] == [passage.text for passage in wrong]
    assert all((before.start, before.end, before.id) == (after.start, after.end, after.id) for before, after in pairs)


def test_labels_of_a_single_type_cannot_be_made_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    entity = {"id": "T1", "type": "drug", "start": 0, "end": 7, "text": "Aspirin"}
    (folder / "train.jsonl").write_text(json.dumps({"id": "p", "text": "Aspirin was given.", "entities": [entity]}))
    corpora = Corpora(root=tmp_path, cache=tmp_path / "cache")

    with pytest.raises(InputInvalidError, match="expected at least two types, got 1"):
        corpora.train(Site(name="one", corpus="one", sentences=1, wrong_labels=0.3), seed=1)

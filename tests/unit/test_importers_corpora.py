"""Publishers' own files, imported, against the passages that the corpora hold; skips, and says so, without them.

Nothing printed or asserted here shows text of a corpus.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator

import pytest

from site_agent.trainer.extraction.importers.formats import FORMATS
from site_agent.trainer.extraction.importers.gathering import gather
from site_agent.trainer.extraction.importers.importing import Import
from site_agent.trainer.extraction.importers.source import SourceDocument, Unit
from site_agent.trainer.extraction.importers.type_map import TypeMap
from site_agent.trainer.extraction.passage_files import read_passages
from site_agent.trainer.extraction.passage_records import parse_record
from site_agent.trainer.extraction.passage_writing import to_line
from site_agent.trainer.extraction.passages import Passage
from tests.corpora import CORPORA, needs_corpora

# Types of the source that became one type of the corpus, whatever stands around them. Others depend on words or on
# relations there (a duration of a drug, a qualifier of severity), which is no matter of an importer.
MACCROBAT = {
    "Administration": "route",
    "Biological_structure": "bodyloc",
    "Diagnostic_procedure": "test",
    "Disease_disorder": "problem",
    "Dosage": "dosage",
    "Frequency": "frequency",
    "Lab_value": "labvalue",
    "Medication": "drug",
    "Severity": "severity",
    "Sign_symptom": "problem",
    "Therapeutic_procedure": "treatment",
}
CHIA = {"Drug": "drug", "Negation": "negation", "Temporal": "temporal"}
NCBI = dict.fromkeys(("CompositeMention", "DiseaseClass", "Modifier", "SpecificDisease"), "problem")
BC5CDR = {"Chemical": "drug", "Disease": "problem"}
PHEE = {
    "Adverse_event.Effect": "problem",
    "Adverse_event.Negated": "negation",
    "Adverse_event.Severity": "severity",
    "Adverse_event.Speculated": "uncertain",
    "Subject.Disorder": "problem",
    "Treatment.Disorder": "problem",
    "Treatment.Dosage": "dosage",
    "Treatment.Drug": "drug",
    "Treatment.Duration": "duration",
    "Treatment.Freq": "frequency",
    "Treatment.Route": "route",
    "Treatment.Time_elapsed": "temporal",
}
SAMPLES = {
    "maccrobat": ("brat", "maccrobat-brat", MACCROBAT),
    "chia": ("brat", "chia-brat", CHIA),
    "ncbi_disease": ("brat", "ncbi_disease-brat", NCBI),
    "bc5cdr": ("pubtator", "bc5cdr-pubtator", BC5CDR),
    "phee": ("phee", "phee-json", PHEE),
}
RELATIONS = {
    "CID": "adverse_effect",
    "Adverse_event": "adverse_effect",
    "Treatment.Disorder": "treats",
    **{name: "hasAttr" for name, kind in PHEE.items() if kind not in ("drug", "problem")},
    "*": "drop",
}
# How many documents of a sample the corpus left out.
LEFT_OUT = {"phee": 1}
Found = set[tuple[str, int, int, str]]
Related = set[tuple[str, str, int, int]]

pytestmark = needs_corpora


def imported(name: str) -> tuple[list[Passage], Import, dict[str, str]]:
    """The passages of a sample, the import that made them, and the texts of its documents."""
    kind, folder, entities = SAMPLES[name]
    types = TypeMap(entities={**entities, "*": "drop"}, relations=RELATIONS, attributes={"*": "drop"})
    run = Import(types=types)
    texts: dict[str, str] = {}

    def read(unit: Unit) -> Iterator[SourceDocument]:
        for outcome in FORMATS[kind].read(unit):
            assert isinstance(outcome, SourceDocument), outcome
            texts[outcome.id] = outcome.text
            yield outcome

    passages = list(run.passages(read, gather([CORPORA / "original-formats" / folder], FORMATS[kind])))
    return passages, run, texts


def places(passages: Iterable[Passage], texts: dict[str, str], types: Iterable[str]) -> tuple[Found, Related]:
    """Entities and relations by document and offsets in it; of these types alone, and in these documents."""
    entities: Found = set()
    relations: Related = set()
    for passage in passages:
        text = texts.get(passage.document)
        if text is None:
            continue
        assert text.count(passage.text) == 1, passage.id
        offset = text.index(passage.text)
        starts = {one.id: one.start + offset for one in passage.entities}
        document = passage.document
        entities |= {
            (document, one.start + offset, one.end + offset, one.type) for one in passage.entities if one.type in types
        }
        relations |= {(one.type, document, starts[one.head], starts[one.tail]) for one in passage.relations}
    return entities, relations


def published(name: str) -> tuple[Passage, ...]:
    return read_passages([CORPORA / name / f"{split}.jsonl" for split in ("train", "dev", "test")])


def texts_in(corpus: Iterable[Passage], texts: dict[str, str]) -> dict[str, str]:
    """The texts of those documents that the corpus has."""
    documents = {passage.document for passage in corpus}
    return {document: text for document, text in texts.items() if document in documents}


@pytest.mark.parametrize("name", SAMPLES)
def test_entities_of_publishers_files_are_those_of_the_corpus(name: str) -> None:
    passages, run, texts = imported(name)
    types, corpus = set(SAMPLES[name][2].values()), published(name)
    shared = texts_in(corpus, texts)

    assert run.problems.total == 0
    assert len(shared) >= 12
    assert len(texts) - len(shared) == LEFT_OUT.get(name, 0)
    ours, theirs = (places(each, shared, types)[0] for each in (passages, corpus))
    assert len(ours) > 50
    assert sorted(one[:3] for one in ours ^ theirs) == []


def test_relations_between_concepts_are_those_of_the_corpus_where_both_have_the_same_passages() -> None:
    passages, _, texts = imported("bc5cdr")
    ours, theirs = (places(each, texts, ())[1] for each in (passages, published("bc5cdr")))

    assert len(ours) > 50
    assert ours == theirs


def test_relations_of_events_are_those_of_the_corpus() -> None:
    passages, _, texts = imported("phee")
    corpus = published("phee")
    ours, theirs = (places(each, texts_in(corpus, texts), ())[1] for each in (passages, corpus))

    assert {kind for kind, *_ in ours} == {"adverse_effect", "treats", "hasAttr"}
    assert len(ours) > 30
    assert ours == theirs


def test_every_passage_that_is_imported_can_be_read_as_a_record() -> None:
    for name in SAMPLES:
        for passage in imported(name)[0]:
            line = to_line(passage, "test")
            assert json.loads(line)["source"] == "test"
            assert parse_record(line) == passage

"""Which end of a relation is its head: what its role says, whatever the order in the file."""

from __future__ import annotations

import json

import pytest

from site_agent.trainer.extraction.importers.bioc import read_bioc_json
from site_agent.trainer.extraction.importers.bioc_xml import read_bioc_xml
from site_agent.trainer.extraction.importers.brat import read_brat
from site_agent.trainer.extraction.importers.source import Reader, SourceDocument, SourceRelation
from tests.fakes.importing import documents, unit

TEXT = "Rash after lithium."
HEAD_FIRST, TAIL_FIRST = (SourceRelation(type="x", head=head, tail=tail) for head, tail in (("T1", "T2"), ("T2", "T1")))
BIOC_ROLES = [
    (("head", "tail"), HEAD_FIRST),
    (("tail", "head"), TAIL_FIRST),
    (("Arg2", "ARG1"), TAIL_FIRST),
    (("Object", "subject"), TAIL_FIRST),
    (("subject", "object"), HEAD_FIRST),
    (("tail", "subject"), HEAD_FIRST),
    (("b", "a"), HEAD_FIRST),
    (("tail", "tail"), HEAD_FIRST),
    (("", ""), HEAD_FIRST),
]


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        (("Arg1", "Arg2"), HEAD_FIRST),
        (("Arg2", "Arg1"), TAIL_FIRST),
        (("ARG2", "arg1"), TAIL_FIRST),
        (("Subj", "Obj"), HEAD_FIRST),
        (("Arg2", "Arg3"), HEAD_FIRST),
    ],
)
def test_a_relation_of_brat_runs_from_arg1_to_arg2(roles: tuple[str, str], expected: SourceRelation) -> None:
    relation = f"R1\tx {roles[0]}:T1 {roles[1]}:T2\n"
    (document,) = documents(read_brat, unit(TEXT, f"T1\tSign 0 4\tRash\nT2\tDrug 11 18\tlithium\n{relation}"))

    assert document.relations == (expected,)


def bioc(read: Reader, *roles: object) -> SourceDocument:
    """A document with one relation, whose ends have these roles in this order."""
    places = (("1", 0, 4), ("2", 11, 7))
    if read is read_bioc_xml:
        nodes = "".join(f'<node refid="{n}" role="{role}"/>' for n, role in enumerate(roles, start=1))
        found = "".join(
            f'<annotation id="{name}"><infon key="type">a</infon><location offset="{offset}" length="{length}"/>'
            f"<text>{TEXT[offset : offset + length]}</text></annotation>"
            for name, offset, length in places
        )
        content = (
            f"<collection><document><id>7</id><passage><offset>0</offset><text>{TEXT}</text>{found}</passage>"
            f'<relation id="R1"><infon key="type">x</infon>{nodes}</relation></document></collection>'
        )
    else:
        annotations = [
            {"id": name, "infons": {"type": "a"}, "locations": [{"offset": offset, "length": length}]}
            for name, offset, length in places
        ]
        ends = [{"refid": f"{n}", "role": role} for n, role in enumerate(roles, start=1)]
        passage = {"offset": 0, "text": TEXT, "annotations": annotations}
        relations = [{"infons": {"type": "x"}, "nodes": ends}]
        content = json.dumps({"id": "7", "passages": [passage], "relations": relations})
    (document,) = documents(read, unit(content))
    return document


@pytest.mark.parametrize("read", [read_bioc_json, read_bioc_xml])
@pytest.mark.parametrize(("roles", "expected"), BIOC_ROLES)
def test_a_relation_of_bioc_runs_from_head_to_tail(
    read: Reader, roles: tuple[str, str], expected: SourceRelation
) -> None:
    assert bioc(read, *roles).relations == (expected,)


@pytest.mark.parametrize("roles", [(None, None), (1, 2), (["tail"], ["head"])])
def test_roles_that_are_no_words_leave_the_order_of_the_file(roles: tuple[object, object]) -> None:
    assert bioc(read_bioc_json, *roles).relations == (HEAD_FIRST,)


def test_concepts_are_ordered_by_the_names_of_their_infons_too() -> None:
    infons = {"type": "x", "tail": "D2", "head": "D1"}
    content = json.dumps({"id": "7", "passages": [], "relations": [{"infons": infons}]})
    (document,) = documents(read_bioc_json, unit(content))

    assert document.concept_relations == (SourceRelation(type="x", head="D1", tail="D2"),)

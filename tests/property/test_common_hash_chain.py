"""A chain of entries tells any change of a line before a head that somebody kept."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.hash_chain import (
    EMPTY_CHAIN,
    NO_DIGEST,
    ChainBrokenError,
    ChainHead,
    canonical_json,
    entries_of,
    entry_after,
    parse_head,
    sealed,
)
from common.ids import digest_of

_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
_VALUES = st.recursive(_SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
_DOCUMENTS = st.dictionaries(st.text().filter(lambda key: key not in ("sequence", "previous")), _VALUES, max_size=4)


def chain_of(documents: list[dict[str, object]]) -> tuple[list[bytes], ChainHead]:
    lines, head = [], EMPTY_CHAIN
    for document in documents:
        line, head = sealed(head, document)
        lines.append(line)
    return lines, head


@given(st.lists(_DOCUMENTS))
def test_what_was_sealed_is_read_back_in_order_up_to_the_same_head(documents: list[dict[str, object]]) -> None:
    lines, head = chain_of(documents)
    read = list(entries_of(lines))
    assert [
        {key: value for key, value in entry.document.items() if key not in ("sequence", "previous")} for entry in read
    ] == documents
    assert (read[-1].head if read else EMPTY_CHAIN) == head


@given(st.lists(_DOCUMENTS, min_size=1), st.data())
def test_a_line_that_was_changed_shows_there_or_in_the_head(
    documents: list[dict[str, object]], data: st.DataObject
) -> None:
    lines, head = chain_of(documents)
    place = data.draw(st.integers(0, len(lines) - 1))
    position = data.draw(st.integers(0, len(lines[place]) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda value: value != lines[place][position]))
    lines[place] = lines[place][:position] + bytes([byte]) + lines[place][position + 1 :]
    try:
        last = [entry.head for entry in entries_of(lines)][-1]
    except ChainBrokenError as broken:
        assert broken.sequence in (place + 1, place + 2)
    else:
        assert place == len(lines) - 1 and last != head


@given(st.lists(_DOCUMENTS, min_size=2, max_size=6), st.data())
def test_a_line_that_was_taken_out_shows(documents: list[dict[str, object]], data: st.DataObject) -> None:
    lines, _ = chain_of(documents)
    place = data.draw(st.integers(0, len(lines) - 2))
    with pytest.raises(ChainBrokenError, match=f"entry {place + 1}: expected number {place + 1}, got {place + 2}"):
        list(entries_of(lines[:place] + lines[place + 1 :]))


def test_the_tail_that_was_cut_off_shows_against_a_kept_head_alone() -> None:
    lines, head = chain_of([{"n": 1}, {"n": 2}, {"n": 3}])
    shorter = [entry.head for entry in entries_of(lines[:2])]
    assert head not in shorter and shorter[-1].sequence == 2


def test_a_chain_goes_on_from_a_head_without_the_lines_before_it() -> None:
    lines, head = chain_of([{"n": 1}, {"n": 2}, {"n": 3}])
    first = entry_after(EMPTY_CHAIN, lines[0])
    assert [entry.head for entry in entries_of(lines[1:], first.head)][-1] == head


def test_the_digest_of_a_line_is_plain_sha256_so_that_other_tools_can_check_it() -> None:
    line, head = sealed(EMPTY_CHAIN, {"b": [1, 2.5], "a": "ä"})
    assert line == b'{"a":"\\u00e4","b":[1,2.5],"previous":"' + NO_DIGEST.encode() + b'","sequence":1}'
    assert head == ChainHead(sequence=1, digest=digest_of(line))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"", "a line of JSON"),
        (b"\xff", "a line of JSON"),
        (b"[" * 100_000, "a line of JSON"),
        (b'{"a":NaN}', "a line of JSON"),
        (b"[]", "canonical JSON"),
        (b'{"sequence": 1}', "canonical JSON"),
        (b'{"a":1,"a":1}', "canonical JSON"),
        (b"{}", "expected number 1, got None"),
        (b'{"sequence":true}', "expected number 1, got True"),
        (b'{"sequence":1}', "before it, got None"),
    ],
)
def test_a_line_that_is_no_entry_is_told_with_what_was_expected(line: bytes, problem: str) -> None:
    with pytest.raises(ChainBrokenError, match=problem):
        entry_after(EMPTY_CHAIN, line)


@pytest.mark.parametrize("document", [{"sequence": 1}, {"previous": "x"}, {"a": float("nan")}])
def test_a_document_that_cannot_be_sealed_is_refused(document: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"expected no key|JSON compliant"):
        sealed(EMPTY_CHAIN, document)


def test_canonical_json_does_not_depend_on_the_order_of_keys() -> None:
    assert canonical_json({"b": 1, "a": 2}) == canonical_json({"a": 2, "b": 1})
    assert json.loads(canonical_json({"b": 1, "a": 2})) == {"a": 2, "b": 1}


@given(st.integers(0, 10**17), st.binary())
def test_a_head_is_written_and_read_back(sequence: int, content: bytes) -> None:
    head = ChainHead(sequence=sequence, digest=digest_of(content))
    assert parse_head(str(head)) == head


@pytest.mark.parametrize("text", ["", "12", "12:sha256:ab", "-1:sha256:" + "0" * 64, "x:y", "9" * 40 + ":"])
def test_a_head_that_is_none_is_refused_with_the_form_expected(text: str) -> None:
    with pytest.raises(ValueError, match="64 hex digits"):
        parse_head(text)

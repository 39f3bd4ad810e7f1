"""CoNLL columns and CSV with offsets: what each becomes, and how a malformed line is told."""

from __future__ import annotations

import pytest

from site_agent.trainer.extraction.importers.conll import BEGUN_INSIDE, COMMENTS, read_conll
from site_agent.trainer.extraction.importers.csv_spans import read_csv
from site_agent.trainer.extraction.importers.source import MAX_TEXT_CHARACTERS, Reader
from tests.fakes.importing import documents, mentions, problems, unit

CONLL = """# document = n-1
# patient = 7
No O
fever B-Sign
or O
severe B-Sign
rash I-Sign

Seen O
"""
CSV = """document,text,start,end,type,words,patient
d,"No ""fever"",
no rash.",4,9,Sign,fever,7
d,,15,19,Sign,rash,
e,Well.,,,,,
"""


def test_tokens_are_parted_by_spaces_and_sentences_by_line_ends() -> None:
    (document,) = documents(read_conll, unit(CONLL))

    assert (document.id, document.patient) == ("n-1", "7")
    assert document.text == "No fever or severe rash\nSeen"
    assert mentions(document) == [("Sign", "fever"), ("Sign", "severe rash")]


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-a I-a O B-a", ["w0 w1", "w3"]),
        ("B-a E-a S-a O", ["w0 w1", "w2"]),
        ("B-a L-a U-a U-a", ["w0 w1", "w2", "w3"]),
        ("B-a B-a I-b I-b", ["w0", "w1", "w2 w3"]),
        ("I-a I-a O I-b", ["w0 w1", "w3"]),
        ("B-a I-a I-a I-a", ["w0 w1 w2 w3"]),
    ],
)
def test_tags_may_be_of_any_of_these_schemes(tags: str, expected: list[str]) -> None:
    content = "".join(f"w{place}\tx\t{tag}\n" for place, tag in enumerate(tags.split()))
    (document,) = documents(read_conll, unit(content))

    assert [words for _, words in mentions(document)] == expected


def test_an_entity_ends_with_its_sentence_and_one_that_begins_inside_is_counted() -> None:
    (document,) = documents(read_conll, unit("a B-x\n\nb I-x\n"))

    assert mentions(document) == [("x", "a"), ("x", "b")]
    assert document.left_out[BEGUN_INSIDE] == 1


def test_documents_begin_where_the_file_says_so() -> None:
    content = "-DOCSTART- -X- O\r\n\r\na O\r\n\r\n-DOCSTART- -X- O\r\n\r\nb O\r\n# document = z\r\nc O\r\n"

    assert [(one.id, one.text) for one in documents(read_conll, unit(content))] == [
        ("one-1", "a"),
        ("one-2", "b"),
        ("z", "c"),
    ]


def test_comments_of_conll_u_are_left_out_and_counted_with_their_document() -> None:
    content = (
        "# global.columns = ID FORM TAG\n\n# newdoc id = z\n# sent_id = 1\n# text = Seen O\nSeen O\n"
        "\n# sent_id = 2\r\nb B-x\n# document = y\n# generator =\nc O\n"
    )
    first, second = documents(read_conll, unit(content))

    assert (first.id, first.text, mentions(first)) == ("z", "Seen\nb", [("x", "b")])
    assert (second.id, second.text) == ("y", "c")
    assert [one.left_out[COMMENTS] for one in (first, second)] == [4, 1]


@pytest.mark.parametrize("line", ["# O", "#\t=\tO", "#\tx\t=\tO", "#5=6 O", "#x = O"])
def test_a_number_sign_may_be_a_token(line: str) -> None:
    (document,) = documents(read_conll, unit(f"{line}\n"))

    assert document.text.startswith("#")
    assert document.left_out[COMMENTS] == 0


def test_rows_of_a_document_are_one_and_a_row_may_say_that_it_has_no_entity() -> None:
    first, second = documents(read_csv, unit(CSV))

    assert (first.id, first.patient, first.text) == ("d", "7", 'No "fever",\nno rash.')
    assert mentions(first) == [("Sign", "fever"), ("Sign", "rash")]
    assert (second.id, second.patient, second.entities) == ("e", None, ())


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_columns_may_be_parted_and_ordered_otherwise(delimiter: str) -> None:
    rows = [["type", "end", "start", "text", "document"], ["Sign", "8", "3", "No fever", "d"]]
    (document,) = documents(read_csv, unit("\ufeff" + "\r\n".join(delimiter.join(row) for row in rows)))

    assert mentions(document) == [("Sign", "fever")]


def test_documents_with_a_column_that_is_not_read_are_counted_by_its_name() -> None:
    rows = [
        "document,text,start,end,type,ward,No fever,,notes",
        "d,No fever.,3,8,Sign,7,x,y,",
        "e,Well.,,,,8,,,",
        "f,Well.,,,,,,,",
    ]
    first, second, third = documents(read_csv, unit("\n".join(rows)))

    told = "documents with a column that is not read, "
    hidden = f"{told}a name of 8 characters (first in one.txt)"
    assert first.left_out == {f'{told}"ward"': 1, hidden: 1, f'{told}"column 8"': 1}
    assert second.left_out == {f'{told}"ward"': 1}
    assert third.left_out == {}


def test_a_column_may_be_called_as_one_without_a_name_is_told() -> None:
    rows = ["document,text,start,end,type,,column 6,", "d,Well.,,,,x,,", "e,Well.,,,,,y,", "f,Well.,,,,x,,z"]
    found = documents(read_csv, unit("\n".join(rows)))

    told = "documents with a column that is not read, "
    sixth, eighth = f'{told}"column 6"', f'{told}"column 8"'
    assert [dict(each.left_out) for each in found] == [{sixth: 1}, {sixth: 1}, {sixth: 1, eighth: 1}]


def test_control_characters_around_an_offset_count_as_white_space() -> None:
    assert mentions(documents(read_csv, unit("document,text,start,end,type\nd,Fever,0,5\x1d,Sign\n"))[0]) == [
        ("Sign", "Fever")
    ]


def test_a_note_longer_than_csv_allows_by_itself_is_read() -> None:
    text = "x" * 200_000

    assert documents(read_csv, unit(f"document,text,start,end,type\nd,{text},0,5,Sign\n"))[0].text == text


HEADER = "document,text,start,end,type\n"
MALFORMED: dict[str, tuple[Reader, str, str]] = {
    "CoNLL: a token alone": (read_conll, "Marfan\n", "one.txt, line 1: expected a token and its tag, got 1 columns"),
    "CoNLL: no tag": (read_conll, "a O\nb Marfan\n", "one.txt, line 2: expected O or a tag such as B-type"),
    "CoNLL: an id of two words": (
        read_conll,
        "a O\n# document = Marfan 2\nb O\n",
        "one.txt, line 2: expected an id without white space after the equals sign, got another",
    ),
    "CSV: a column twice": (
        read_csv,
        "document,text,start,end,type,Marfan, Marfan\nd,x,,,,a,b\n",
        "one.txt, row 1: expected every column once, got columns 6 and 7 of one name",
    ),
    "CSV: no header": (read_csv, "Marfan\n", "one.txt, row 1: expected the column document, got others"),
    "CSV: empty": (read_csv, "", "one.txt, row 1: expected the column document, got others"),
    "CSV: too few values": (read_csv, f"{HEADER}d,Marfan\n", "one.txt, row 2: expected 5 values, got 2"),
    "CSV: no document": (read_csv, f"{HEADER},Marfan,0,1,x\n", "row 2: document: expected a value"),
    "CSV: no offset": (read_csv, f"{HEADER}d,Marfan,Marfan,1,x\n", "row 2: start: expected an offset"),
    "CSV: a separator in an offset": (read_csv, f"{HEADER}d,Marfan,0,1\x1d2,x\n", "row 2: end: expected an offset"),
    "CSV: no type": (read_csv, f"{HEADER}d,Marfan,0,1,\n", "row 2: type: expected a value"),
    "CSV: another text": (read_csv, f"{HEADER}d,a,0,1,x\nd,Marfan,0,1,x\n", "row 3: text: expected that of the"),
    "CSV: beyond the text": (read_csv, f"{HEADER}d,Marfan,0,9,x\n", "row 2: expected offsets up to 6, got 0 and 9"),
    "CSV: bytes without words": (
        read_csv,
        f"{HEADER}d,é Marfan,3,9,x\n",
        "row 2: expected offsets up to 8, got 3 and 9",
    ),
    "CSV: an open quote": (read_csv, f'{HEADER}d,"Marfan', "line 2: expected CSV with values of at most"),
    "CSV: a note too long": (read_csv, f"{HEADER}d,{'x' * (MAX_TEXT_CHARACTERS + 1)}", "expected CSV with values"),
    "CSV: two patients": (
        read_csv,
        "document,text,start,end,type,patient\nd,a,,,,1\nd,,,,,Marfan\n",
        "row 3: patient: expected one a document, got two",
    ),
}


@pytest.mark.parametrize(("read", "content", "expected"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_table_is_told_by_line_and_never_quoted(read: Reader, content: str, expected: str) -> None:
    (told,) = problems(read, unit(content))

    assert expected in told


def test_a_malformed_document_does_not_lose_the_others() -> None:
    conll = unit("# document = a\nMarfan\n# document = b\nx O\n")
    table = unit(f"{HEADER}d,Marfan,0,9,x\ne,Well,0,4,x\n")

    assert [len(list(read(of))) for read, of in ((read_conll, conll), (read_csv, table))] == [2, 2]
    assert [len(problems(read, of)) for read, of in ((read_conll, conll), (read_csv, table))] == [1, 1]

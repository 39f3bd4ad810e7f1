"""spaCy's DocBin, from bytes that spaCy itself wrote, and from bytes that nobody should have written."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable

import msgpack
import pytest

from site_agent.trainer.extraction.importers import docbin
from site_agent.trainer.extraction.importers.docbin import read_docbin
from site_agent.trainer.extraction.importers.murmur import murmur64
from site_agent.trainer.extraction.importers.source import Unit
from tests.fakes.importing import documents, mentions, problems

# Three documents that spaCy 3.8.18 wrote: words that it numbers instead of hashing ("X", "mark", "agent", the type
# EVENT), characters of two and four bytes, entities side by side, two spaces, a line end, a span group, a text of
# words alone.
SPACY_WROTE = base64.b64decode(
    """
eJzrXF6WWlScmZ+32EDPcGliSUlR8VxHZ08vbx9fP/+As4xHzjIePct4bFlJfnZqXvFR7hMydw5v3qRbxxX0muVox/kgFwYCgBlK
R8mfFDj18Z0ATJyRgL6PVzIy38za0g2jCdnDREgBDrCjJOjBon9rvHp+V9s5HImPpZU9HxLXNJx1PcwBo2llTyqUPndNXufspthZ
hNTD4qeZUISggeWMqDQhAFNGqj27zfZVyc5z84PRhNSTG26TZhWbLkvjS4fRtLJnzudKM++i2Q9hNK3s4RVbyLdSolENRtPKnomM
qDSt7BH7u2Fxmv6fxzCaVvYs7ewUacljcITRhNTD8s/0ZbeenuiMvkisPTJP2j5P7jKOhtG0sqez6sT2n1HsXDCakHpYNJJqz6JD
a3ze3KxfD6MJqSc3fuZW5Bbx7Gxsa1JaH/mpUH8rufYQSq4vHS0uzb8usxZGE7IHVz1HCOwUk+rufftHGUYTUk9uuAn+cDv02Sqz
DEbTyh5YvFAaP4SAu6mgyC6nI2UwmpB6cuOHXun6lfjLyjqTWF4YTSt7ytakrUkJajP29voV9+254R1a2UOvcDPbEbtRPXpGdq3S
LbEVZ5RmElJPbnuU5fe7QzorPu6E0YTsGezhtqy4IDE5tfiILCMjAyMIMIBpUEAwQgMDyF2ek5qXXpJRfIQHFFCgygMUfsuLS4oy
89KL7zAoL1jItVBhkXrxQp2FeovMTRdaL3XOL03PWOJSVJq+1DXM1S9kqVsqsIuxzDc/LyWxcpFf/pLg1NS8JcGZ6XkLI5Ympqfm
lSxPLC7IBBq4NBmkdWkaSP2S3MSi7EW56ctyIfry8hfl5y3Jz8upXFKQmJm3pCixOGNJMdCkpcWZecmpi0syUhdWLDq8csmH+TO2
L0lOLCme3NDQsDQtJzG9eHLjpozE4vjSvOy8/PK8eIjHDxEteHg1kM6LTy/KLy0onnyEccIRj8Yjjs1L8hJzUxcVJ0M6TQ1LQYqK
Jx7RQA9ogXcfTwmclI9Ciy/2iUC9QMMAZrGqfA==
"""
)


def bin_of(content: bytes) -> Unit:
    return Unit(name="notes.spacy", stem="notes", content=content)


def changed(change: Callable[[dict[str, object]], object]) -> Unit:
    """What spaCy wrote, with a change."""
    message = msgpack.unpackb(zlib.decompress(SPACY_WROTE))
    change(message)
    return bin_of(zlib.compress(msgpack.packb(message)))


def test_texts_and_entities_are_those_that_spacy_has() -> None:
    first, second, third = documents(read_docbin, bin_of(SPACY_WROTE))

    assert first.text == "Fever since Monday; X mark on the é😷 agent's aspirin 75 mg."
    assert mentions(first) == [("Sign", "Fever"), ("EVENT", "X mark"), ("Drug", "aspirin"), ("Drug", "75 mg")]
    assert second.text == "No rash,  no pain.\nSeen."
    assert mentions(second) == [("Sign", "rash"), ("Sign", "pain")]
    assert mentions(third) == [("Sign", "Cough")]


def test_documents_are_numbered_and_what_is_left_out_is_counted() -> None:
    found = documents(read_docbin, bin_of(SPACY_WROTE))

    assert [document.id for document in found] == ["notes-1", "notes-2", "notes-3"]
    assert {what for what, count in found[1].left_out.items() if count} == {"documents with span groups"}
    assert {what for what, count in found[2].left_out.items() if count} == {"texts without their own spaces"}


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("a", 11901859001352538922),
        ("fever", 4923225528997309266),
        ("eight by", 15404263946044424935),
        ("aspirin 75 mg daily", 6289047415694035871),
        ("é😷", 2961335352963530976),
    ],
)
def test_the_number_of_a_word_is_the_one_that_spacy_gives_it(word: str, number: int) -> None:
    assert murmur64(word.encode(), 1) == number


def test_a_small_file_that_says_it_is_huge_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docbin, "MAX_UNPACKED_BYTES", 2**20)
    bomb = zlib.compress(bytes(2**26))

    assert problems(read_docbin, bin_of(bomb)) == [
        "notes.spacy: expected at most 1048576 bytes unpacked, got more or a cut file"
    ]


MALFORMED = {
    "no zlib": (lambda: bin_of(b"Marfan"), "expected a DocBin (zlib)"),
    "cut": (lambda: bin_of(SPACY_WROTE[:-9]), "bytes unpacked, got more or a cut file"),
    "no msgpack": (lambda: bin_of(zlib.compress(b"\xc1Marfan")), "expected a DocBin (msgpack)"),
    "another value": (lambda: bin_of(zlib.compress(msgpack.packb(["Marfan"]))), "expected a DocBin (msgpack)"),
    "a list as a key": (lambda: bin_of(zlib.compress(b"\x81\x91\x01\x02")), "expected a DocBin (msgpack)"),
    "no attributes": (lambda: changed(lambda each: each.pop("attrs")), "attrs: expected a list of integers"),
    "no entities": (lambda: changed(lambda each: each.update(attrs=[65])), "attrs: expected ORTH, ENT_IOB"),
    "no tokens": (lambda: changed(lambda each: each.update(tokens="Marfan")), "tokens: expected an array"),
    "half a token": (lambda: changed(lambda each: each.update(tokens=b"Marfan")), "tokens: expected an array"),
    "other lengths": (lambda: changed(lambda each: each.update(lengths=b"\1\0\0\0")), "expected arrays that fit"),
    "negative": (lambda: changed(lambda each: each.update(lengths=b"\xff\xff\xff\xff")), "expected arrays that fit"),
    "no strings": (lambda: changed(lambda each: each.update(strings=[1])), "strings: expected a list of strings"),
}


@pytest.mark.parametrize(("content", "expected"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_bin_is_told_by_its_part(content: Callable[[], Unit], expected: str) -> None:
    (told,) = problems(read_docbin, content())

    assert told.startswith("notes.spacy: ")
    assert expected in told


def test_a_word_that_the_strings_lack_is_refused_for_its_document_alone() -> None:
    def forget(message: dict[str, object]) -> None:
        message["strings"] = [each for each in message["strings"] if each != "Monday"]  # type: ignore[attr-defined]

    assert problems(read_docbin, changed(forget)) == [
        "notes.spacy, document 1: expected words and types that the file's strings have, got another number"
    ]

"""A word that is disguised is found: the search for canaries (`test_canaries.py`) is not blind."""

from __future__ import annotations

import base64
import gzip
import io
import json
import zipfile
import zlib

import pytest

from tests.e2e.disguises import disguises, unpacked
from tests.e2e.wiretap import PREFACE, messages

WORD = "Zanzibarine"
SENTENCE = f"for a week {WORD} was given"


def token_ids(text: str) -> list[int]:
    return [ord(letter) + 2 for letter in text]


def zipped(text: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("notes", text)
    return file.getvalue()


HIDDEN = {
    "plain": SENTENCE.encode(),
    "lower case": SENTENCE.lower().encode(),
    "UTF-16": SENTENCE.encode("utf-16"),
    "hexadecimal": SENTENCE.encode().hex().encode(),
    "base64": base64.b64encode(SENTENCE.encode()),
    "base64, one further": base64.b64encode(b"1" + SENTENCE.encode()),
    "base64, two further": base64.urlsafe_b64encode(b"12" + SENTENCE.encode()),
    "backwards": SENTENCE[::-1].encode(),
    "gzip": gzip.compress(SENTENCE.encode()),
    "zlib": zlib.compress(SENTENCE.encode()),
    "zip": zipped(SENTENCE),
    "tokens as JSON": json.dumps(token_ids(SENTENCE)).encode(),
    "tokens as 32 bits": b"".join(number.to_bytes(4, "little") for number in token_ids(SENTENCE)),
    "tokens as 64 bits": b"".join(number.to_bytes(8, "little") for number in token_ids(SENTENCE)),
}


@pytest.mark.parametrize("how", HIDDEN)
def test_a_word_is_found_in_a_sentence_that_is(how: str) -> None:
    needles = disguises(WORD, token_ids)
    assert any(needle in form for form in unpacked(HIDDEN[how]) for needle in needles)
    assert not any(
        needle in form for form in unpacked(SENTENCE.replace(WORD, "aspirin").encode()) for needle in needles
    )


def frame(stream: int, content: bytes, kind: int = 0) -> bytes:
    return len(content).to_bytes(3) + bytes([kind, 0]) + stream.to_bytes(4) + content


def test_a_message_that_two_frames_carry_is_heard_in_one_piece() -> None:
    frames = [frame(1, b"Zanzi"), frame(3, b"aspirin"), frame(1, b"headers", kind=1), frame(1, b"barine")]
    assert list(messages(PREFACE + b"".join(frames))) == [b"Zanzibarine", b"aspirin"]

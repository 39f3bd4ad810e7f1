"""What an experiment's sites hold, cut from the user's corpora by seed into the lab's own cache; nothing else is read.

Sets are cut by passage, in an order drawn by seed; parts of a corpus share no document. Equal choices give equal bytes,
so that a file's digest says what it is.
"""
# ruff: noqa: S311 - these choices are to be repeatable, not secret

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from common.errors import InputInvalidError, Reason
from common.files import make_folder, write_whole
from common.ids import Digest, digest_of
from lab.experiment import Site
from site_agent.trainer.extraction.examples import training_examples
from site_agent.trainer.extraction.passage_files import read_passages
from site_agent.trainer.extraction.passages import Passage, annotated_types

TRAIN, VALIDATION, TEST = "train.jsonl", "dev.jsonl", "test.jsonl"
_T = TypeVar("_T")
_FIXED_SEED = 0  # of what must be the same for every seed of an experiment: validation and test sets


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteFile:
    """A file of annotated passages in the cache, by what is in it."""

    path: Path
    digest: Digest
    sentences: int


@dataclass(frozen=True, slots=True)
class _Line:
    """One passage as it lies in its file, and as it is read."""

    content: bytes = field(repr=False)
    passage: Passage

    @property
    def sentences(self) -> int:
        return len(training_examples(self.passage))


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpora:
    """The user's corpora below ``root``, and what is cut from them in ``cache``."""

    root: Path
    cache: Path

    def train(self, site: Site, seed: int) -> NoteFile:
        """What ``site`` trains on with this seed.

        Raises:
            InputInvalidError: NOTES_INVALID, or NOTES_TOO_FEW when the corpus has fewer sentences than asked for.
        """
        lines = _part(self._lines(site.corpus, TRAIN), *site.part)
        chosen = _cut(_shuffled(lines, seed), site.sentences, f"{site.name}: {site.corpus}/{TRAIN}")
        if site.wrong_labels:
            chosen = _with_wrong_labels(chosen, site.wrong_labels, seed)
        return self._kept(chosen)

    def few(self, corpus: str, sentences: int, seed: int) -> NoteFile:
        """What a new site has."""
        lines = self._lines(corpus, TRAIN)
        return self._kept(_cut(_shuffled(lines, seed), sentences, f"{corpus}/{TRAIN}"))

    def validation(self, corpus: str, sentences: int) -> NoteFile:
        """The consortium's validation set of one corpus; raises as `train`."""
        return self._same_for_all(corpus, VALIDATION, sentences)

    def test(self, corpus: str, sentences: int) -> NoteFile:
        """What models are scored on; raises as `train`."""
        return self._same_for_all(corpus, TEST, sentences)

    def _same_for_all(self, corpus: str, name: str, sentences: int) -> NoteFile:
        """Passages from all over the file: of as many documents as can be, for intervals are by document."""
        lines = _shuffled(self._lines(corpus, name), _FIXED_SEED)
        return self._kept(_cut(lines, sentences, f"{corpus}/{name}"))

    def _lines(self, corpus: str, name: str) -> list[_Line]:
        path = self.root / corpus / name
        passages = read_passages([path])
        contents = [line for line in path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines() if line.strip()]
        return [_Line(content, passage) for content, passage in zip(contents, passages, strict=True)]

    def _kept(self, lines: Sequence[_Line]) -> NoteFile:
        content = b"".join(line.content + b"\n" for line in lines)
        digest = digest_of(content)
        path = self.cache / f"{digest.removeprefix('sha256:')[:32]}.jsonl"
        make_folder(self.cache)
        if not path.exists():
            write_whole(path, content, mode=0o600)
        return NoteFile(path=path, digest=digest, sentences=sum(line.sentences for line in lines))


def shared_passages(left: Iterable[NoteFile], right: Iterable[NoteFile]) -> int:
    """How many different passages, by their text, are in files of both sides."""
    texts = [
        {passage.text for passage in read_passages([file.path for file in {one.digest: one for one in side}.values()])}
        for side in (left, right)
    ]
    return len(texts[0] & texts[1])


def _document(line: _Line) -> str:
    return line.passage.document


def _shuffled(items: Sequence[_T], seed: int) -> list[_T]:
    return random.Random(seed).sample(list(items), len(items))


def _part(lines: Iterable[_Line], number: int, count: int) -> list[_Line]:
    """The lines whose documents fall into part ``number`` (from 1) of ``count``."""
    return [line for line in lines if _bucket(_document(line), count) == number - 1]


def _bucket(document: str, count: int) -> int:
    return int.from_bytes(hashlib.sha256(document.encode()).digest()[:8], "big") % count


def _cut(lines: Sequence[_Line], sentences: int, what: str) -> list[_Line]:
    """The first lines that have so many sentences together."""
    chosen: list[_Line] = []
    count = 0
    for line in lines:
        if count >= sentences:
            return chosen
        chosen.append(line)
        count += line.sentences
    if count < sentences:
        message = f"{what}: expected at least {sentences} sentences, got {count}"
        raise InputInvalidError(Reason.NOTES_TOO_FEW, message)
    return chosen


def _with_wrong_labels(lines: Sequence[_Line], share: float, seed: int) -> list[_Line]:
    """That share of the entities, each drawn by itself, with another of the types that occur."""
    types = sorted(annotated_types(line.passage for line in lines))
    if len(types) < 2:
        raise InputInvalidError(Reason.NOTES_INVALID, f"wrong_labels: expected at least two types, got {len(types)}")
    chance = random.Random(seed)
    return [_Line(_relabelled(line.content, types, share, chance), line.passage) for line in lines]


def _relabelled(content: bytes, types: Sequence[str], share: float, chance: random.Random) -> bytes:
    record = json.loads(content)
    for entity in record["entities"]:
        if chance.random() < share:
            entity["type"] = chance.choice([one for one in types if one != entity["type"]])
    return json.dumps(record, ensure_ascii=False).encode()

"""What an experiment's sites hold, cut from the user's corpora by seed into the lab's own cache; nothing else is read.

Sets are cut by passage, in an order drawn by seed; parts of a corpus share no document. What is trained on holds no
passage whose text, but for white space and case, is held out. Equal choices give equal bytes, so that a file's digest
says what it is.
"""
# ruff: noqa: S311 - these choices are to be repeatable, not secret

from __future__ import annotations

import hashlib
import json
import random
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, zip_longest
from pathlib import Path
from typing import TypeVar

from common.errors import InputInvalidError, Reason
from common.files import make_folder, write_whole
from common.ids import Digest, digest_of
from common.terms import Terms
from lab.experiment import Site
from site_agent.trainer.choices import most_empty
from site_agent.trainer.extraction.examples import training_examples
from site_agent.trainer.extraction.passage_files import read_passage_sets, read_passages
from site_agent.trainer.extraction.passages import Passage, annotated_types
from site_agent.trainer.extraction.relations import gold_head_examples, roles_to_ask
from site_agent.trainer.extraction.scoring import scored_types
from site_agent.trainer.extraction.set_digest import text_digests

TRAIN, VALIDATION, TEST = "train.jsonl", "dev.jsonl", "test.jsonl"
_T = TypeVar("_T")
Texts = frozenset[str]  # digests of texts
_FIXED_SEED = 0  # of what must be the same for every seed of an experiment: validation and test sets


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteFile:
    """A file of annotated passages in the cache, by what is in it.

    Attributes:
        left_out: Passages that it would hold, had their texts not been held out.
    """

    path: Path
    digest: Digest
    sentences: int
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class _Line:
    """One passage as it lies in its file, and as it is read."""

    content: bytes = field(repr=False)
    passage: Passage

    @property
    def sentences(self) -> int:
        return len(training_examples(self.passage))

    def is_among(self, texts: Texts) -> bool:
        return bool(text_digests([self.passage]) & texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpora:
    """The user's corpora below ``root``, and what is cut from them in ``cache``."""

    root: Path
    cache: Path

    def train(self, site: Site, seed: int, held_out: Texts = frozenset()) -> NoteFile:
        """What ``site`` trains on with this seed, without passages of those texts.

        Raises:
            InputInvalidError: NOTES_INVALID, or NOTES_TOO_FEW when the corpus has fewer sentences than asked for.
        """
        lines = _shuffled(_part(self._lines(site.corpus, TRAIN), *site.part), seed)
        chosen, left_out = _without(held_out, lines, site.sentences, f"{site.name}: {site.corpus}/{TRAIN}")
        if site.wrong_labels:
            chosen = _with_wrong_labels(chosen, site.wrong_labels, seed)
        return replace(self._kept(chosen), left_out=left_out)

    def few(self, corpus: str, examples: int, seed: int, asked: Terms, held_out: Texts = frozenset()) -> NoteFile:
        """What a new site needs to train so many sentences or, where relations alone are asked for, heads; see `train`.

        Of those with nothing to find ``training.max_empty_share`` lets no more count than it lets be trained.
        """
        lines, what = _shuffled(self._lines(corpus, TRAIN), seed), f"{corpus}/{TRAIN}"
        sentences = examples
        if asked.task.relations_only or asked.training.max_empty_share:
            sentences = _sentences_with(_kept_in(held_out, lines), examples, asked, what)
        chosen, left_out = _without(held_out, lines, sentences, what)
        return replace(self._kept(chosen), left_out=left_out)

    def validation(self, corpus: str, sentences: int) -> NoteFile:
        """The consortium's validation set of one corpus; raises as `train`."""
        return self._same_for_all(corpus, VALIDATION, sentences)

    def test(self, corpus: str, sentences: int) -> NoteFile:
        """What models are scored on; raises as `train`."""
        return self._same_for_all(corpus, TEST, sentences)

    def whole_test(self, corpus: str) -> NoteFile:
        """All that a test set is cut from: its annotations say what the corpus annotates."""
        return self._kept(self._lines(corpus, TEST))

    def _same_for_all(self, corpus: str, name: str, sentences: int) -> NoteFile:
        """Passages from all over the file: of as many documents as can be, for intervals are by document."""
        lines = _documents_in_turn(_shuffled(self._lines(corpus, name), _FIXED_SEED))
        return self._kept(_cut(lines, sentences, f"{corpus}/{name}"))

    def _lines(self, corpus: str, name: str) -> list[_Line]:
        path = self.root / corpus / name
        if not path.is_file():
            raise InputInvalidError(
                Reason.NOTES_INVALID,
                f"expected annotated passages in {corpus}/{name} below {self.root}, got no such file",
            )
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


def texts_of(files: Iterable[NoteFile]) -> Texts:
    """The texts of all of them, as digests; white space and case do not count."""
    passages = [read_passages([file.path]) for file in {one.digest: one for one in files}.values()]
    return text_digests(chain.from_iterable(passages))


def check_ids(files: Iterable[NoteFile]) -> None:
    """Check that files may be read together: an id that two corpora use says nothing of which passage is meant.

    Raises:
        InputInvalidError: NOTES_INVALID, with the lines that have the same id.
    """
    read_passage_sets([file.path for file in files])


def shared_passages(left: Iterable[NoteFile], right: Iterable[NoteFile]) -> int:
    """How many different passages, by their text, are in files of both sides."""
    return len(texts_of(left) & texts_of(right))


def _document(line: _Line) -> str:
    return line.passage.document


def _shuffled(items: Sequence[_T], seed: int) -> list[_T]:
    return random.Random(seed).sample(list(items), len(items))


def _documents_in_turn(lines: Iterable[_Line]) -> list[_Line]:
    """The first line of each document, then the second of each that has one, and so on."""
    by_document: dict[str, list[_Line]] = {}
    for line in lines:
        by_document.setdefault(_document(line), []).append(line)
    turns = zip_longest(*by_document.values())
    return [line for turn in turns for line in turn if line is not None]


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


def _without(held_out: Texts, lines: Sequence[_Line], sentences: int, what: str) -> tuple[list[_Line], int]:
    """The first lines that have so many sentences together and are of no such text, and how many were passed over."""
    chosen = _cut(_kept_in(held_out, lines), sentences, what)
    passed = lines[: lines.index(chosen[-1])]
    return chosen, len(passed) - len(_kept_in(held_out, passed))


def _kept_in(held_out: Texts, lines: Iterable[_Line]) -> list[_Line]:
    return [line for line in lines if not line.is_among(held_out)]


def _sentences_with(lines: Sequence[_Line], examples: int, asked: Terms, what: str) -> int:
    """How many sentences the first lines have of which so many examples are trained."""
    lines_needed = bisect_left(range(1, len(lines) + 1), examples, key=lambda count: _trained(lines[:count], asked)) + 1
    if lines_needed > len(lines):
        kind = "heads of relations" if asked.task.relations_only else "sentences"
        message = f"{what}: expected at least {examples} {kind} to train, got {_trained(lines, asked)}"
        raise InputInvalidError(Reason.NOTES_TOO_FEW, message)
    return sum(line.sentences for line in lines[:lines_needed])


def _trained(lines: Iterable[_Line], asked: Terms) -> int:
    """How many examples of the one task that is asked for a trainer takes of them, however long they are."""
    passages = [line.passage for line in lines]
    if asked.task.relations_only:
        roles = roles_to_ask(passages, asked.task)
        are_full = [bool(one.entities) for passage in passages for one in gold_head_examples(passage, roles)]
    else:
        types = scored_types(passages, asked.task.entity_types)
        examples = (one for passage in passages for one in training_examples(passage))
        are_full = [any(mention.type in types for mention in one.entities) for one in examples]
    share, full = asked.training.max_empty_share, sum(are_full)
    empty = len(are_full) - full
    return full + (min(empty, most_empty(full, share)) if share else empty)


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

"""What tests of the importers share: units of text, and what a reader makes of them."""

from __future__ import annotations

from collections.abc import Iterable

from site_agent.trainer.extraction.importers.importing import Import
from site_agent.trainer.extraction.importers.source import Outcome, Problem, Reader, SourceDocument, Unit
from site_agent.trainer.extraction.passages import Passage

# No message of ours holds it: where it stands in an input, it must not be told.
CANARY = "Marfan"


def unit(content: str | bytes, annotations: str | bytes = b"", name: str = "one.txt") -> Unit:
    """A unit of these contents."""
    raw = [each.encode() if isinstance(each, str) else each for each in (content, annotations)]
    return Unit(name=name, stem=name.partition(".")[0], content=raw[0], annotations=raw[1])


def documents(read: Reader, of: Unit) -> list[SourceDocument]:
    """What a reader finds, where nothing is wrong."""
    outcomes = list(read(of))
    assert [outcome for outcome in outcomes if isinstance(outcome, Problem)] == []
    return [outcome for outcome in outcomes if isinstance(outcome, SourceDocument)]


def problems(read: Reader, of: Unit) -> list[str]:
    """What a reader finds wrong, as a person is told it; never with the canary."""
    told = [f"{each.where}: {each.what}" for each in read(of) if isinstance(each, Problem)]
    assert CANARY not in "".join(told)
    return told


def mentions(document: SourceDocument) -> list[tuple[str, str]]:
    """Type and words of each entity."""
    return [(one.type, document.text[one.start : one.end]) for one in document.entities]


def imported(run: Import, *found: Outcome) -> list[Passage]:
    """The passages of documents that a reader would have found in one unit."""
    return list(run.passages(lambda _: iter(found), [unit("")]))


def words_of(passage: Passage) -> list[tuple[str, str]]:
    """Type and words of each entity of a passage."""
    return [(one.type, passage.text[one.start : one.end]) for one in passage.entities]


def related(passages: Iterable[Passage]) -> list[tuple[str, str, str]]:
    """Type, head's words and tail's words of each relation."""
    told = []
    for passage in passages:
        words = {one.id: passage.text[one.start : one.end] for one in passage.entities}
        told += [(one.type, words[one.head], words[one.tail]) for one in passage.relations]
    return told

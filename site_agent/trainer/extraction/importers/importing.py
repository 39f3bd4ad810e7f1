"""Units of a source to passages, and all that is wrong or left out on the way. It opens no file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from site_agent.trainer.extraction.importers.cutting import cut
from site_agent.trainer.extraction.importers.map_use import MapUse
from site_agent.trainer.extraction.importers.mapping import Unmapped, mapped
from site_agent.trainer.extraction.importers.source import (
    LeftOut,
    MalformedError,
    Problem,
    Reader,
    SourceDocument,
    Unit,
)
from site_agent.trainer.extraction.importers.type_map import TypeMap
from site_agent.trainer.extraction.passages import Passage
from site_agent.trainer.extraction.problems import Problems

# As long as the passages of published corpora: a paragraph.
DEFAULT_WORDS = 126


@dataclass(slots=True, kw_only=True)
class Import:
    """One import: how documents become passages, and what was met so far.

    Attributes:
        patients: Whose each document is, where the source does not say or is not believed.
        left_out: Counts of what was dropped or changed by rule.
        use: What the documents that were imported used of the type map.
        entities: How many they have in the source, dropped ones too.
    """

    types: TypeMap
    max_words: int = DEFAULT_WORDS
    patients: Mapping[str, str] = field(default_factory=dict)
    problems: Problems = field(default_factory=Problems)
    unmapped: Unmapped = field(default_factory=Unmapped)
    left_out: Counter[str] = field(default_factory=Counter)
    use: MapUse = field(default_factory=MapUse)
    documents: int = 0
    entities: int = 0
    _seen: set[str] = field(default_factory=set)

    def passages(self, read: Reader, units: Iterable[Unit | Problem]) -> Iterator[Passage]:
        """The passages of all documents that are well formed; problems of the others are kept."""
        for unit in units:
            if isinstance(unit, Problem):
                self._add(unit)
                continue
            found = 0
            for outcome in read(unit):
                found += 1
                match outcome:
                    case Problem():
                        self._add(outcome)
                    case LeftOut():
                        self.left_out[outcome.what] += 1
                    case _:
                        yield from self._cut(outcome, f"{unit.name}, document {found}")
            if not found:
                self.problems.add(f"{unit.name}: expected at least one document, got none")

    def refuse_unmapped(self) -> None:
        """Refuse the source if the type map does not know all its types.

        Raises:
            InputInvalidError: NOTES_INVALID, with the types.
        """
        missing = Problems()
        for problem in self.unmapped.problems():
            missing.add(problem)
        missing.refuse_any()

    def strangers(self) -> int:
        """How many documents the table of patients names that this import has not met."""
        return len(self.patients.keys() - self._seen)

    def _add(self, problem: Problem) -> None:
        self.problems.add(f"{problem.where}: {problem.what}")

    def _cut(self, document: SourceDocument, where: str) -> tuple[Passage, ...]:
        """All passages of one document, or none and a problem."""
        if document.id in self._seen:
            self.problems.add(f"{where}: expected every document id once, got one repeated")
            return ()
        if not document.id or any("\ud800" <= character <= "\udfff" for character in document.id + document.text):
            self.problems.add(f"{where}: expected an id, and Unicode text, got half of a surrogate pair or no id")
            return ()
        self._seen.add(document.id)
        patient = self.patients.get(document.id, document.patient)
        left_out: Counter[str] = Counter(document.left_out)
        typed = mapped(replace(document, patient=patient), self.types, left_out, self.unmapped, where)
        try:
            passages = tuple(cut(typed, self.max_words, left_out))
        except MalformedError as error:
            self.problems.add(f"{where}: {error.problem.what}")
            return ()
        self.documents += 1
        self.entities += len(document.entities)
        self.use.add(document, self.types, where)
        self.left_out += left_out
        return passages

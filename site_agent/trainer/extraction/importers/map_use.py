"""What became of a type map in an import: entries that matched nothing, and the types that ``"*"`` dropped.

With ``"*" = "drop"`` no type is missing, so a misspelt entry loses a type without a word: here it is told.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from site_agent.trainer.extraction.importers.labels import (
    MAX_NAMES_SHOWN,
    Names,
    Wording,
    is_label,
    shown,
)
from site_agent.trainer.extraction.importers.source import SourceDocument
from site_agent.trainer.extraction.importers.type_map import ANY, ATTRIBUTES, DROP, ENTITIES, RELATIONS, TypeMap

_REVERSED = "reversed"


@dataclass(slots=True)
class _Dropped:
    """What ``"*"`` dropped in one table: names, how often each occurs, and how often all that are not kept do."""

    names: Names = field(default_factory=Names)
    counts: Counter[str] = field(default_factory=Counter)
    others: int = 0

    def add(self, found: Counter[str], wording: Wording, where: str, alone: bool) -> None:
        """Note the names of one document."""
        for name, count in found.items():
            if self.names.add((name, 0), wording, where, alone):
                self.counts[name] += count
            else:
                self.others += count

    def listed(self) -> str:
        """The names with their counts, the most frequent first; as one those that are told alike."""
        alike = Counter[str]()
        for name, count in self.counts.items():
            alike[shown((name, 0), self.names.seen[name, 0])] += count
        told = [f"{name} {count}" for name, count in alike.most_common()]
        return ", ".join(told + ([f"others {self.others}"] if self.others else []))


@dataclass(slots=True)
class MapUse:
    """What the documents so far used of a type map. It shows labels, no text."""

    matched: set[tuple[str, str]] = field(default_factory=set, repr=False)
    dropped: dict[str, _Dropped] = field(default_factory=dict, repr=False)

    def add(self, document: SourceDocument, types: TypeMap, where: str) -> None:
        """Note those of a document, which is still in the source's types."""
        starred: dict[str, Counter[str]] = defaultdict(Counter)
        for table, name, value, is_held in _named(document, types):
            key = types.entry(table, name, value)
            if is_held and key == ANY and types.tables()[table][ANY] == DROP:
                starred[table][name] += 1
            elif key is not None:
                self.matched.add((table, key))
            if table == RELATIONS and name in types.reversed:
                self.matched.add((_REVERSED, name))
        if starred:
            wording = Wording(document)
            for table, found in starred.items():
                self.dropped.setdefault(table, _Dropped()).add(found, wording, where, alone=table == RELATIONS)

    def told(self, types: TypeMap) -> Iterator[str]:
        """One sentence for each table and kind."""
        for table, dropped in sorted(self.dropped.items()):
            yield f'left out or changed: dropped by "*" of the type map\'s [{table}]: {dropped.listed()}'
        for table, keys in sorted({**types.tables(), _REVERSED: types.reversed}.items()):
            idle = sorted(key for key in keys if key != ANY and (table, key) not in self.matched)
            if idle:
                more = ["others"] if len(idle) > MAX_NAMES_SHOWN else []
                shown_keys = ", ".join([*map(_key, idle[:MAX_NAMES_SHOWN]), *more])
                yield f"worth a look: entries of the type map's [{table}] that match nothing: {shown_keys}"


def _named(document: SourceDocument, types: TypeMap) -> Iterator[tuple[str, str, str, bool]]:
    """Table, name and value of all that a type map is asked about; not held is what goes with a dropped entity."""
    for entity in document.entities:
        yield ENTITIES, entity.type, "", True
        is_held = types.entity(entity.type) != DROP
        for name, value in entity.attributes:
            yield ATTRIBUTES, name, value, is_held
    for relation in (*document.relations, *dict.fromkeys(document.concept_relations)):
        yield RELATIONS, relation.type, "", True


def _key(key: str) -> str:
    return f'"{key}"' if is_label(key) else f"a name of {len(key)} characters"

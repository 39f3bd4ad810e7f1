"""BioC in XML, brought into the form that it has in JSON. Entities are not declared and nothing is fetched.

A DOCTYPE may name BioC.dtd, as files of publishers do; it is not read. A declaration of an entity of its own, which is
how a small file becomes a huge one, is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.parsers import expat

from site_agent.trainer.extraction.importers.bioc import bioc_document
from site_agent.trainer.extraction.importers.json_values import JsonValue
from site_agent.trainer.extraction.importers.source import MalformedError, Outcome, Unit

MAX_DEPTH = 16
MAX_ELEMENTS = 1_000_000
_CHUNK_BYTES = 64 * 2**10
# The elements of which a document has many, by the name of their list in JSON.
_LISTS = {
    "passage": "passages",
    "sentence": "sentences",
    "annotation": "annotations",
    "relation": "relations",
    "location": "locations",
    "node": "nodes",
}


@dataclass(slots=True)
class _Element:
    name: str
    attributes: dict[str, str]
    fields: dict[str, object] = field(default_factory=dict)
    text: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Reading:
    """What expat has told so far: the open elements, and the documents that are complete."""

    name: str
    open: list[_Element] = field(default_factory=list)
    complete: list[dict[str, object]] = field(default_factory=list)
    elements: int = 0

    def parser(self) -> expat.XMLParserType:
        """A parser that tells this reading, and refuses what could be more than it seems."""
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.EntityDeclHandler = self._refuse_entity
        parser.SkippedEntityHandler = self._refuse_entity
        return parser

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self.elements += 1
        if len(self.open) >= MAX_DEPTH or self.elements > MAX_ELEMENTS:
            raise MalformedError(self.name, f"expected at most {MAX_ELEMENTS} elements, {MAX_DEPTH} deep, got more")
        self.open.append(_Element(name, attributes))

    def _characters(self, text: str) -> None:
        if self.open:
            self.open[-1].text.append(text)

    def _end(self, name: str) -> None:
        element = self.open.pop()
        if name == "document":
            self.complete.append(element.fields)
        elif self.open and name != "collection":
            _add(self.open[-1].fields, element)

    def _refuse_entity(self, *_: object) -> None:
        raise MalformedError(self.name, "expected XML without entities of its own, got one")


def _add(fields: dict[str, object], element: _Element) -> None:
    """Put a finished element where it stands in JSON."""
    text = "".join(element.text)
    if element.name == "infon":
        infons = fields.setdefault("infons", {})
        if isinstance(infons, dict):
            infons[element.attributes.get("key", "")] = text
    elif element.name in _LISTS:
        numbers = {name: _number(value) for name, value in element.attributes.items() if name in ("offset", "length")}
        items = fields.setdefault(_LISTS[element.name], [])
        if isinstance(items, list):
            items.append({"infons": {}, **element.attributes, **element.fields, **numbers})
    else:
        fields[element.name] = _number(text) if element.name == "offset" else text


def _number(text: str) -> int | None:
    """An offset, as JSON would have it; null where it is none, so that its path is told."""
    digits = text.strip()
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= 10 else None


def read_bioc_xml(unit: Unit) -> Iterator[Outcome]:
    """The documents of a collection."""
    reading = _Reading(unit.name)
    parser = reading.parser()
    number = 0
    for start in range(0, len(unit.content) + 1, _CHUNK_BYTES):
        chunk = unit.content[start : start + _CHUNK_BYTES]
        problem = _feed(parser, reading, chunk, start + _CHUNK_BYTES > len(unit.content))
        for fields in reading.complete:
            yield bioc_document(JsonValue(fields, f"{unit.name}.documents[{number}]"))
            number += 1
        reading.complete.clear()
        if problem is not None:
            yield problem.problem
            return


def _feed(parser: expat.XMLParserType, reading: _Reading, chunk: bytes, is_last: bool) -> MalformedError | None:
    """Parse a piece of the file; what is wrong with it, if anything is."""
    try:
        parser.Parse(chunk, is_last)
    except MalformedError as error:
        return error
    except expat.ExpatError as error:
        where, problem = f"{reading.name}, line {error.lineno}", "expected XML, got a syntax error"
    except (ValueError, LookupError):
        where, problem = reading.name, "expected XML in an encoding that is known, got another"
    else:
        return None
    return MalformedError(where, f"{problem} or an unfinished file")

"""Typed reading of JSON of other tools: a path and expected against got in every refusal, and never a value."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field

from site_agent.trainer.extraction.importers.source import MalformedError, expect

_KINDS: dict[type, str] = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "an integer",
    float: "a number with a fraction",
    bool: "a boolean",
    type(None): "null",
}


@dataclass(frozen=True, slots=True)
class JsonValue:
    """A value of a JSON text, and where it stands."""

    value: object = field(repr=False)
    where: str

    def get(self, name: str) -> JsonValue:
        """The field ``name`` of an object; null where it does not have it."""
        return JsonValue(self.fields().get(name), f"{self.where}.{name}")

    def fields(self) -> dict[str, object]:
        """The object's fields."""
        expect(isinstance(self.value, dict), self.where, f"expected an object, got {self.kind()}")
        return self.value if isinstance(self.value, dict) else {}

    def items(self) -> Iterator[JsonValue]:
        """The items of a list; none of null."""
        expect(self.value is None or isinstance(self.value, list), self.where, f"expected a list, got {self.kind()}")
        for place, value in enumerate(self.value if isinstance(self.value, list) else ()):
            yield JsonValue(value, f"{self.where}[{place}]")

    def string(self) -> str:
        """A string."""
        expect(isinstance(self.value, str), self.where, f"expected a string, got {self.kind()}")
        return str(self.value)

    def name(self) -> str:
        """A string that is not empty, or an integer in its place, as many tools number things."""
        is_name = type(self.value) is int or (isinstance(self.value, str) and self.value != "")
        expect(is_name, self.where, f"expected a name or a number, got {self.kind()}")
        return str(self.value)

    def optional_name(self) -> str | None:
        """As `name`; None of null and of the empty string."""
        return None if self.value in (None, "") else self.name()

    def integer(self) -> int:
        """An integer; no boolean."""
        expect(type(self.value) is int, self.where, f"expected an integer, got {self.kind()}")
        return self.value if isinstance(self.value, int) else 0

    def kind(self) -> str:
        """What it is, in words."""
        return _KINDS.get(type(self.value), "another value")


def parse_json(text: str, where: str) -> JsonValue:
    """The value of a JSON text. Parsers' exceptions hold the text itself, so none is kept or chained.

    Raises:
        MalformedError: it is none.
    """
    try:
        return JsonValue(json.loads(text), where)
    except json.JSONDecodeError as error:
        problem = f"expected JSON, got a syntax error at line {error.lineno}, character {error.colno}"
    except (ValueError, RecursionError):
        problem = "expected JSON, got a number too long or objects nested too deep"
    raise MalformedError(where, problem)


def json_lines(text: str, name: str) -> Iterator[tuple[str, str]]:
    """The lines of a text that are not blank, each with where it stands."""
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield line, f"{name}, line {number}"

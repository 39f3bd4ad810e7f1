"""All targets by name, and the inputs that were kept: each reaches what the ones before it do not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from tests.fuzz import header, importers, translate
from tests.fuzz.reach import Step, reached, statements
from tests.fuzz.target import Target

TARGETS: Mapping[str, Target] = {"header": header.TARGET, "importers": importers.TARGET, "translate": translate.TARGET}
CORPUS = Path(__file__).parent / "corpus"


def kept_inputs(name: str) -> list[bytes]:
    """The corpus of a target, with its seeds first."""
    return [*TARGETS[name].seeds(), *(path.read_bytes() for path in sorted((CORPUS / name).glob("*")))]


def worth_keeping(name: str, inputs: Iterable[bytes]) -> list[bytes]:
    """The inputs that go from a line to a line as no shorter one does, and no seed."""
    target, seen = TARGETS[name], set[Step]()
    for content in target.seeds():
        seen |= reached(target, content)
    kept = []
    for content in sorted(inputs, key=len):
        steps = reached(target, content)
        if not steps <= seen:
            kept.append(content)
            seen |= steps
    return kept


def missed(name: str, inputs: Iterable[bytes]) -> tuple[int, dict[str, list[int]]]:
    """How many statements the functions of the target's modules have, and the lines of those not reached, by module."""
    target, lines = TARGETS[name], set[tuple[str, int]]()
    for content in inputs:
        lines |= {(module, line) for module, _, line in reached(target, content)}
    wanted = {module: statements(module) for module in target.modules}
    unreached = {
        module: [first for first, last in spans if not any((module, line) in lines for line in range(first, last + 1))]
        for module, spans in wanted.items()
    }
    return sum(map(len, wanted.values())), unreached

"""What messages call each of several files, so that those of one name are told apart. It opens none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise, takewhile
from pathlib import Path


def labels_without_folders(paths: Sequence[Path]) -> list[str]:
    """File names alone, for messages that may leave the site: folders may be named for patients, or for hospitals."""
    return _numbered([path.name for path in paths])


def labels_with_folders(paths: Sequence[Path]) -> list[str]:
    """File names, with as many folders before each as tell it from the others, for the person who named them."""
    whole = [path.absolute() for path in paths]
    # Sorted by their last parts first, a path shares the most with one of its neighbours.
    ordered = sorted({path.parts[::-1] for path in whole})
    shared = [_shared(one, other) for one, other in pairwise(ordered)]
    lengths = {each: 1 + max(ends) for each, *ends in zip(ordered, [0, *shared], [*shared, 0], strict=False)}
    return _numbered([str(Path(*path.parts[-lengths[path.parts[::-1]] :])) for path in whole])


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """How many parts at the beginning are the same."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _numbered(labels: Sequence[str]) -> list[str]:
    """The labels, with their places among all where two are the same."""
    counts = Counter(labels)
    return [
        label if counts[label] == 1 else f"{label} (file {place} of {len(labels)})"
        for place, label in enumerate(labels, start=1)
    ]

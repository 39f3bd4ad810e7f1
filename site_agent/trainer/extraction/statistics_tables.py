"""Statistics of annotated sets as CSV and Markdown. It writes no file."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterable, Sequence
from statistics import median

from site_agent.trainer.extraction.leakage import Shared
from site_agent.trainer.extraction.statistics import SMALLEST_CELL, Overlap, SetStatistics, small_cells

_CAUTION = """# Statistics of annotated notes

These numbers are for your site alone. A count below {cell} may point at a person: {small} of the counts of labels are
such. Do not pass this page, its tables or its plots on without asking whoever answers for your patients' data.
"""


def labels_csv(described: Sequence[SetStatistics]) -> str:
    """One row for each set and type."""
    rows = [
        (each.name, kind, name, count)
        for each in described
        for kind, counts in (("entity", each.entities), ("relation", each.relations))
        for name, count in sorted(counts.items())
    ]
    return _csv(("set", "kind", "type", "count"), rows)


def lengths_csv(described: Sequence[SetStatistics]) -> str:
    """One row for each set and length."""
    rows = [(each.name, words, count) for each in described for words, count in sorted(Counter(each.lengths).items())]
    return _csv(("set", "words", "passages"), rows)


def overlap_csv(found: Sequence[Overlap]) -> str:
    """One row for each set and other set."""
    return _csv(_OVERLAP_COLUMNS, map(_overlap_row, found))


def markdown(described: Sequence[SetStatistics], found: Sequence[Overlap]) -> str:
    """A page of everything."""
    sizes = [
        (each.name, each.passages, each.documents, each.patients, each.sentences, _median(each.lengths))
        for each in described
    ]
    parts = [
        _CAUTION.format(cell=SMALLEST_CELL, small=small_cells(described)),
        "## Sizes\n",
        _table(("set", "passages", "documents", "patients named", "sentences", "words a passage (median)"), sizes),
        "## Labels\n",
        _table(("type", *(each.name for each in described)), _label_rows(described)),
        "![Shares of the entity types](labels.png)\n",
        "## Lengths\n",
        "![Words a passage](lengths.png)\n",
    ]
    if found:
        parts += [
            "## Overlap\n",
            "The share of a set's entities whose words the other set has, too, with the same type; and how many\n"
            "of its passages have something of the other set's that a split must not part: these should be 0.\n",
            _table(_OVERLAP_COLUMNS, map(_overlap_row, found)),
            "![Entities seen in the other set](overlap.png)\n",
        ]
    return "\n".join(parts)


_OVERLAP_COLUMNS = ("set", "other set", "entities seen there", *(f"{shared}" for shared in Shared))


def _overlap_row(each: Overlap) -> tuple[object, ...]:
    seen = "" if each.entities_seen is None else f"{each.entities_seen:.3f}"
    return (each.name, each.other, seen, *(each.leaks.get(shared, 0) for shared in Shared))


def _label_rows(described: Sequence[SetStatistics]) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for counts in ([each.entities for each in described], [each.relations for each in described]):
        names = sorted({name for each in counts for name in each})
        rows += [(name, *(each.get(name, 0) for each in counts)) for name in names]
    return rows


def _median(lengths: Sequence[int]) -> float:
    return median(lengths) if lengths else 0


def _csv(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return out.getvalue()


def _table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [columns, ["---", *["--:"] * (len(columns) - 1)], *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |\n" for line in lines)

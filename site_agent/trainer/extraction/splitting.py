"""Passages to train, dev and test sets in which no patient, or document, and no text stands twice. It writes no file.

Groups that must stay together (one patient or document, one text or nearly) are given out largest first. Of
the sets that have room for a group it goes to the one that lacks most of what it holds: passages, and entities of each
type in proportion to how rare they are; where none has room, to the one with most.
The seed decides between groups of one size.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b

from common.errors import InputInvalidError, Reason
from site_agent.trainer.extraction.leakage import same_texts
from site_agent.trainer.extraction.passages import Passage

_PASSAGES = ""


class GroupBy(StrEnum):
    """What must not be parted."""

    PATIENT = "patient"
    DOCUMENT = "document"


@dataclass(frozen=True, slots=True)
class _Group:
    key: str
    places: tuple[int, ...]
    counts: Mapping[str, int]


def split_passages(
    passages: Sequence[Passage], by: GroupBy, fractions: Mapping[str, float], seed: int
) -> dict[str, tuple[int, ...]]:
    """The places of the passages of each set, in their order.

    Args:
        passages: At least one.
        by: What is kept together. By document, no patient may have several.
        fractions: How much of everything each set gets; positive, together 1.
        seed: The same one gives the same sets.

    Raises:
        InputInvalidError: NOTES_INVALID: patients are not said, or would be parted; there are fewer groups than sets.
    """
    keys = _keys(passages, by)
    groups = _groups(passages, keys, seed)
    if len(groups) < len(fractions):
        raise _invalid(
            f"expected at least {len(fractions)} groups that share no {by} and no text, one for each set; "
            f"got {len(groups)}"
        )
    given = _give_out(groups, fractions)
    return {name: tuple(sorted(place for group in given[name] for place in group.places)) for name in fractions}


def _keys(passages: Sequence[Passage], by: GroupBy) -> list[str]:
    """What each passage is grouped by."""
    if by is GroupBy.PATIENT:
        unknown = sum(passage.patient is None for passage in passages)
        if unknown:
            raise _invalid(f"expected meta.patient in every record, got {unknown} without; or split by document")
        return [str(passage.patient) for passage in passages]
    documents: dict[str, set[str]] = {}
    for passage in passages:
        if passage.patient is not None:
            documents.setdefault(passage.patient, set()).add(passage.document)
    several = sum(len(each) > 1 for each in documents.values())
    if several:
        raise _invalid(f"expected one document a patient, got {several} patients with several; split by patient")
    return [passage.document for passage in passages]


def _groups(passages: Sequence[Passage], keys: Sequence[str], seed: int) -> list[_Group]:
    """Groups joined by key and by text, largest first."""
    leader = list(range(len(passages)))

    def find(place: int) -> int:
        while leader[place] != place:
            leader[place] = leader[leader[place]]
            place = leader[place]
        return place

    first: dict[str, int] = {}
    joined = [(first.setdefault(key, place), place) for place, key in enumerate(keys)]
    for one, other in (*joined, *same_texts(passages)):
        leader[max(find(one), find(other))] = min(find(one), find(other))
    places: dict[int, list[int]] = {}
    for place in range(len(passages)):
        places.setdefault(find(place), []).append(place)
    groups = [_Group(keys[top], tuple(each), _counts(passages, each)) for top, each in places.items()]
    return sorted(groups, key=lambda group: (-len(group.places), _drawn(seed, group.key)))


def _counts(passages: Sequence[Passage], places: Sequence[int]) -> Counter[str]:
    counts = Counter(entity.type for place in places for entity in passages[place].entities)
    counts[_PASSAGES] = len(places)
    return counts


def _drawn(seed: int, key: str) -> bytes:
    """A place in the order by lot, the same on every machine."""
    return blake2b(f"{seed}\n{key}".encode(errors="surrogatepass"), digest_size=16).digest()


def _give_out(groups: Sequence[_Group], fractions: Mapping[str, float]) -> dict[str, list[_Group]]:
    """Each group to one set; as soon as only as many are left as there are empty sets, those get them."""
    total: Counter[str] = Counter()
    for group in groups:
        total.update(group.counts)
    given: dict[str, list[_Group]] = {name: [] for name in fractions}
    held: dict[str, Counter[str]] = {name: Counter() for name in fractions}

    def room(name: str) -> float:
        return fractions[name] * total[_PASSAGES] - held[name][_PASSAGES]

    def lack(name: str, group: _Group) -> float:
        return sum(
            count / total[kind] * (1 - held[name][kind] / (fractions[name] * total[kind]))
            for kind, count in group.counts.items()
        )

    for place, group in enumerate(groups):
        empty = [name for name in fractions if not given[name]]
        open_to = empty if len(groups) - place <= len(empty) else list(fractions)
        with_room = [name for name in open_to if room(name) >= group.counts[_PASSAGES]]
        name = max(with_room, key=lambda each: lack(each, group)) if with_room else max(open_to, key=room)
        given[name].append(group)
        held[name].update(group.counts)
    return given


def _invalid(problem: str) -> InputInvalidError:
    return InputInvalidError(Reason.NOTES_INVALID, problem)

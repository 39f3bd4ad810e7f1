"""Under which key a candidate is found again: by what it is made of, and by nothing else that is said of an update."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from common.given_under import GivenUnder, PolicyStand
from coordinator.domain.values import RosterEntry, SignedBy, Update
from lab.cells import Adapter
from lab.workshop import Combination
from tests.fakes.coordinator_values import aggregating_run, file, make_update, open_round_of

RUN = aggregating_run()


def key(change: dict[str, object], update: Update | None = None) -> str:
    first, *others = open_round_of(RUN).accepted
    changed: list[RosterEntry] = [replace(first, update=replace(update or first.update, **change)), *others]  # type: ignore[type-var]
    adapters = [adapter(entry.update) for entry in changed if entry.update]
    return Combination(run=RUN, accepted=changed, updates=adapters, before=adapter(make_update())).key


def adapter(update: Update) -> Adapter:
    return Adapter(file=update.file, path=Path("unread"))


@pytest.mark.parametrize(
    "change",
    [
        {"given_under": GivenUnder(stand=PolicyStand.SHOWN)},
        {"signed": SignedBy(signature="00", public_key="11")},
    ],
)
def test_who_signed_an_update_and_under_which_policy_makes_no_other_candidate(change: dict[str, object]) -> None:
    assert key(change) == key({})


@pytest.mark.parametrize("change", [{"num_label_tokens": 7}, {"num_examples": 7}, {"file": file("another")}])
def test_what_an_update_counts_for_and_holds_makes_another_candidate(change: dict[str, object]) -> None:
    assert key(change) != key({})

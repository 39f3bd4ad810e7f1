"""What runs of real processes publish when nothing befalls them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

from common.terms import Terms
from tests.faults.processes import Federation

Undisturbed = Callable[[Terms], dict[str, str]]


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """Plays a run of these terms, once: the digest of every adapter that it publishes, by version."""

    @cache
    def versions(terms: Terms) -> dict[str, str]:
        with Federation(tmp_path_factory.mktemp("undisturbed"), terms) as federation:
            return federation.run()

    return versions

"""Who is there: whoever holds a poll open, or did a short while ago. Kept in memory; a restart asks anew."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from common.ids import SiteName


def nobody(_name: SiteName) -> bool:
    """What ``is_out`` says where nobody can be banned or withdraw."""
    return False


class Presence:
    """Counts open polls by name, and remembers for ``linger_seconds`` when one closed.

    Attributes:
        is_out: Whether that name takes part in nothing any more: it is present never.
    """

    def __init__(
        self, monotonic: Callable[[], float], linger_seconds: float, is_out: Callable[[SiteName], bool] = nobody
    ) -> None:
        self.is_out = is_out
        self._monotonic = monotonic
        self._linger_seconds = linger_seconds
        self._open_polls: Counter[SiteName] = Counter()
        self._left_at: dict[SiteName, float] = {}
        self._known: frozenset[SiteName] = frozenset()
        self._max_lora_ranks: dict[SiteName, int] = {}

    def know(self, names: Iterable[SiteName]) -> None:
        """These were heard of before this process started; they count as absent until they call."""
        self._known = frozenset(names)

    def enter(self, name: SiteName, max_lora_rank: int = 0) -> bool:
        """A poll was opened, and says up to which rank the caller trains; returns whether it was absent until now."""
        was_absent = not self.is_present(name)
        self._max_lora_ranks[name] = max_lora_rank
        self._open_polls[name] += 1
        return was_absent

    def leave(self, name: SiteName) -> None:
        """A poll was closed; the next one is expected at once."""
        self._open_polls[name] -= 1
        self._left_at[name] = self._monotonic()

    def is_present(self, name: SiteName) -> bool:
        """Whether ``name`` holds a poll open, or did within the linger time."""
        if self.is_out(name):
            return False
        if self._open_polls[name] > 0:
            return True
        left_at = self._left_at.get(name)
        return left_at is not None and self._monotonic() - left_at < self._linger_seconds

    def present(self) -> frozenset[SiteName]:
        """Everyone present."""
        return frozenset(name for name in self._open_polls.keys() | self._left_at.keys() if self.is_present(name))

    @property
    def max_lora_ranks(self) -> tuple[tuple[SiteName, int], ...]:
        """What everyone said last of the largest rank; sorted by name."""
        return tuple(sorted(self._max_lora_ranks.items()))

    def snapshot(self) -> tuple[tuple[SiteName, bool], ...]:
        """Everyone ever heard of, sorted by name, and whether they are present."""
        names = self._known | self._open_polls.keys() | self._left_at.keys()
        return tuple((name, self.is_present(name)) for name in sorted(names))

"""Adapters that come of others without training, by the services' own code: some ranks of one, one with a site's own.

Each has a key that is a function of what it is made of, as a cell has. Nothing here says when one is needed.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from common.adapter import AdapterSpec
from coordinator.app.cut_parts import write_part
from coordinator.domain.adapter_parts import Cut
from coordinator.domain.values import AdapterFile
from lab.cells import Adapter
from site_agent.app.personal_adapter import put_own

_SOFTWARE = ("fedmedlora", "numpy")
# Raised when the same is cut, put together or combined to other bytes: then it is done again.
_EDITION = 1


class Derived(Protocol):
    """An adapter that is a function of others."""

    @property
    def key(self) -> str:
        """32 hex digits."""

    @property
    def sources(self) -> tuple[Adapter, ...]:
        """What it is made of."""

    def write(self, out: Path) -> AdapterFile:
        """Make it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The ranks of ``whole`` that ``cut`` names: what a site of a lower rank trains, or adds while it trains."""

    whole: Adapter
    cut: Cut

    @property
    def key(self) -> str:
        """A function of the adapter's content, its shape and the ranks."""
        return key_of("part", self.whole.file.digest, self.cut.spec.digest, self.cut.start, self.cut.stop)

    @property
    def sources(self) -> tuple[Adapter, ...]:
        """The whole adapter."""
        return (self.whole,)

    def write(self, out: Path) -> AdapterFile:
        """Cut it out as the coordinator does."""
        return write_part(self.whole.path, self.cut, out)


@dataclass(frozen=True, slots=True, kw_only=True)
class Personal:
    """``shared``, of the shape ``spec``, with the factors in it that a site kept: the model that this site uses."""

    shared: Adapter
    own: Adapter
    spec: AdapterSpec

    @property
    def key(self) -> str:
        """A function of both files' contents and the shape."""
        return key_of("personal", self.shared.file.digest, self.own.file.digest, self.spec.digest)

    @property
    def sources(self) -> tuple[Adapter, ...]:
        """What is shared, and what is the site's."""
        return (self.shared, self.own)

    def write(self, out: Path) -> AdapterFile:
        """Put them together as ``fedmed-site adapter fetch --personal`` does."""
        shutil.copyfile(self.shared.path, out)
        digest = put_own(out, self.own.path, self.spec)
        return AdapterFile(digest=digest, size_bytes=out.stat().st_size)


def key_of(*parts: Any) -> str:
    """32 hex digits: a function of ``parts`` (JSON) and of the software that makes something of them."""
    made_by = [f"edition {_EDITION}", *(f"{name} {version(name)}" for name in _SOFTWARE)]
    return hashlib.sha256(json.dumps([made_by, parts], sort_keys=True).encode()).hexdigest()[:32]

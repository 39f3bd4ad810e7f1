"""The process that libFuzzer runs in, and ends: ``python -m tests.fuzz.inside TARGET [libFuzzer's flags]``."""

from __future__ import annotations

import sys

import atheris

# The readers themselves: the guidance must see their branches, not those of the libraries below.
INSTRUMENTED = [
    "common",
    "coordinator.adapters.rpc.translate",
    "site_agent.adapters.translate",
    "site_agent.trainer.extraction.importers",
]

with atheris.instrument_imports(include=INSTRUMENTED):
    from tests.fuzz.targets import TARGETS

atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]].run)
atheris.Fuzz()

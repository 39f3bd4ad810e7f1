"""Whether the fault tests are to take as long as it takes: ``make faults`` sets FEDMED_FAULTS=all."""

from __future__ import annotations

import os

IS_LONG = os.environ.get("FEDMED_FAULTS") == "all"

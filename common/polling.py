"""What both ends of the long poll must agree on. It polls nothing itself."""

from __future__ import annotations

# The longest `poll_hold` that a coordinator may be configured with; an agent waits longer than that for its answer.
MAX_POLL_HOLD_SECONDS = 300.0

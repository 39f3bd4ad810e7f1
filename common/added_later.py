"""The mark of a terms field that came when there were terms without it; see `common.terms.Terms.canonical`."""

from __future__ import annotations

ADDED_LATER = {"is_added_later": True}

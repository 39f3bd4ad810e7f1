"""Which texts a set of passages holds, as digests from which none can be told, and what two sets share. Pure.

White space and case do not count: a text that was only set otherwise is the same text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from common.errors import InputInvalidError, Reason
from common.ids import Digest, digest_of
from site_agent.trainer.extraction.passages import Passage


def text_digests(passages: Iterable[Passage]) -> frozenset[str]:
    """SHA-256 of each text, in hex."""
    return frozenset(
        hashlib.sha256(" ".join(passage.text.split()).casefold().encode()).hexdigest() for passage in passages
    )


def set_digest(passages: Iterable[Passage]) -> Digest:
    """One digest of all texts; neither their order nor their number of copies counts."""
    return digest_of("".join(f"{one}\n" for one in sorted(text_digests(passages))).encode())


def check_apart(validation: Iterable[Passage], test: Iterable[Passage], test_digest: str) -> None:
    """Refuse a validation set that shares a text with the test set, or a test set that is not the run's.

    ``test_digest`` is that of the run's test set, if its terms name one: then ``test`` must be that set, so that a run
    whose evaluator was not told where the test set lies is not scored at all.

    Raises:
        InputInvalidError: NOTES_INVALID, expected against got.
    """
    held_out, used = list(test), text_digests(validation)
    if test_digest and set_digest(held_out) != test_digest:
        got = set_digest(held_out) if held_out else "no test set (data.test)"
        raise InputInvalidError(Reason.NOTES_INVALID, f"test set: expected {test_digest} as in the terms, got {got}")
    shared = len(used & text_digests(held_out))
    if shared:
        raise InputInvalidError(
            Reason.NOTES_INVALID, f"validation set: expected no text of the test set, got {shared} of {len(used)}"
        )

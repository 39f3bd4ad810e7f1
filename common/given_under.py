"""Under which policy of its own a site gave an update: whether it says so, and by which digest. No word of a policy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from common.errors import InputInvalidError, Reason
from common.ids import Digest, check_digest


class PolicyStand(StrEnum):
    """What a site says of the policy that it gives an update under."""

    SHOWN = "shown"  # by its digest
    WITHHELD = "withheld"  # it has written one, which keeps its digest at home
    UNWRITTEN = "unwritten"  # it has written none: a person approved the run


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenUnder:
    """What a site says of its policy; ``digest``: SHA-256 of the policy's file, where that is shown, else None."""

    stand: PolicyStand
    digest: Digest | None = None

    @property
    def document(self) -> dict[str, str]:
        """What of it is signed."""
        return {"stand": str(self.stand), **({"digest": self.digest} if self.digest is not None else {})}

    def __str__(self) -> str:
        return str(self.stand) if self.digest is None else f"{self.stand} {self.digest}"


def check_given_under(said: GivenUnder) -> GivenUnder:
    """Return ``said`` if it has a digest where one is shown, and none elsewhere.

    Raises:
        InputInvalidError: DIGEST_INVALID or FIELD_INVALID.
    """
    if said.stand is PolicyStand.SHOWN:
        check_digest(said.digest or "", "given_under.digest")
    elif said.digest is not None:
        raise InputInvalidError(
            Reason.FIELD_INVALID, f"given_under.digest: expected none where the policy is {said.stand}, got one"
        )
    return said

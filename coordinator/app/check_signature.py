"""Whether an update's signature is its site's own. Checked by the header alone, before a byte of the update is read."""

from __future__ import annotations

from typing import Protocol

from common.errors import Reason, UpdateRefusedError
from common.ids import Digest
from common.signing import UpdateSignature, UpdateStatement, is_signed
from common.tls import Caller
from coordinator.domain.admission import ClaimedUpdate
from coordinator.domain.values import Run


class SigningKeys(Protocol):
    """Whose signing keys are whose, now."""

    def is_revoked(self, public_key: str) -> bool:
        """Whether the key (64 hex digits) counts no more, whosever it is."""

    def objection(self, caller: Caller, signature: UpdateSignature) -> str | None:
        """Why the key is not known to be the caller's, expected against got; None when it is."""


def statement_of(run: Run, round_number: int, digest: Digest, claim: ClaimedUpdate) -> UpdateStatement:
    """What a site that gives this update must have signed."""
    return UpdateStatement(
        run_id=run.run_id,
        terms_digest=run.terms.digest,
        round_number=round_number,
        base_digest=claim.base_digest,
        update_digest=digest,
        num_examples=claim.num_examples,
        num_label_tokens=claim.num_label_tokens,
        tasks=tuple((each.task, each.num_examples, each.num_label_tokens) for each in claim.tasks),
        given_under=claim.given_under,
    )


def check_signature(
    caller: Caller, run: Run, statement: UpdateStatement, signature: UpdateSignature | None, keys: SigningKeys
) -> None:
    """Check that the update is signed as the terms ask; a signature that is not asked for must hold all the same.

    Raises:
        UpdateRefusedError: SIGNATURE_MISSING or SIGNATURE_INVALID; as `check_key`.
    """
    if signature is None:
        if run.terms.admission.requires_signatures:
            raise UpdateRefusedError(
                Reason.SIGNATURE_MISSING, "signature: expected one, for the terms say requires_signatures, got none"
            )
        return
    if not is_signed(statement.message, signature.public_key, signature.signature):
        raise UpdateRefusedError(
            Reason.SIGNATURE_INVALID,
            f"signature: expected one by {signature.public_key[:64]} over run {statement.run_id}, terms "
            f"{statement.terms_digest}, round {statement.round_number}, base, update and counts; got another",
        )
    check_key(caller, signature, keys)


def check_key(caller: Caller, signature: UpdateSignature, keys: SigningKeys) -> None:
    """Check that the key is the one with which the caller signs now.

    Raises:
        UpdateRefusedError: SIGNING_KEY_REVOKED or SIGNING_KEY_UNKNOWN.
    """
    if keys.is_revoked(signature.public_key):
        message = f"signing key: expected one that was not revoked, got {signature.public_key}; enrol anew with another"
        raise UpdateRefusedError(Reason.SIGNING_KEY_REVOKED, message)
    if objection := keys.objection(caller, signature):
        raise UpdateRefusedError(Reason.SIGNING_KEY_UNKNOWN, f"signing key: {objection}")

"""The list of signing keys that count no more, as the consortium's root signs it, offline. Opens no file.

::

    {"consortium": "...", "keys": ["sha256:...", ...], "made_at": "...", "signature": "..."}

Whoever verifies a release has it beside the root's certificate, and not from the coordinator, which could keep it back.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from pydantic import TypeAdapter, ValidationError

from common.errors import InputInvalidError, Reason
from common.hash_chain import canonical_json
from common.ids import Digest, check_digest
from common.signing_certificates import consortium_of

_CONTEXT = b"fedmedlora revoked keys v1\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedKeys:
    """A list, and the root's word for it.

    Attributes:
        keys: Fingerprints, sorted.
        signature: ECDSA with SHA-256 by the root's key, in DER, as hex; empty until it is signed.
    """

    consortium: str
    made_at: datetime
    keys: tuple[Digest, ...]
    signature: str = ""

    @property
    def message(self) -> bytes:
        """The bytes that are signed."""
        unsigned = {"consortium": self.consortium, "made_at": self.made_at.isoformat(), "keys": self.keys}
        return _CONTEXT + canonical_json(unsigned)


_LIST = TypeAdapter(RevokedKeys)


def sign_list(unsigned: RevokedKeys, root_key: ec.EllipticCurvePrivateKey) -> bytes:
    """The list's file."""
    signature = root_key.sign(unsigned.message, ec.ECDSA(SHA256())).hex()
    document = _LIST.dump_python(replace(unsigned, signature=signature), mode="json")
    return json.dumps(document, indent=1, sort_keys=True).encode() + b"\n"


def read_list(content: bytes, root: x509.Certificate) -> RevokedKeys:
    """The list in a file.

    Raises:
        InputInvalidError: CONFIG_INVALID, it is none, or another than the root of that certificate has signed.
    """
    try:
        revoked = _LIST.validate_json(content)
        for key in revoked.keys:
            check_digest(key, "keys")
        signature = bytes.fromhex(revoked.signature)
    except (ValidationError, InputInvalidError, ValueError, RecursionError):
        raise _invalid("expected a list that `key disown` wrote, got something else") from None
    if not _is_signed(root, signature, revoked.message):
        raise _invalid("expected one that the consortium's root signed, got another")
    if revoked.consortium != consortium_of(root):
        raise _invalid(f"expected one of {consortium_of(root)}, got one of {revoked.consortium[:80]}")
    return revoked


def _is_signed(root: x509.Certificate, signature: bytes, message: bytes) -> bool:
    key = root.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):  # no root of a consortium: all its keys are ECDSA
        return False
    try:
        key.verify(signature, message, ec.ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def _invalid(message: str) -> InputInvalidError:
    return InputInvalidError(Reason.CONFIG_INVALID, f"revoked keys: {message}")
